// A program on the old JavaScript library, written from the description of protocol v1. What the library does wrong is
// kept: it appends itself to the chain of its own calls, has one execution context for all of its handlers, and ties ERROR
// frames to no call.
import { EventEmitter } from "node:events";
import { createConnection } from "node:net";
import { frame, makeId, readFrames } from "./wire.mjs";

export class OldProgram extends EventEmitter {
  #options;
  #sockets = [];
  #turn = 0;
  #pending = new Map();
  #executing;
  #heartbeat;
  /** Calls that came, in order. */
  received = [];

  /** Options: `path`, `name`, `encoding`, `poolSize`, `methods` (handlers by name), `timeout`, `heartbeatInterval`. */
  constructor(options) {
    super();
    this.#options = {
      encoding: "json",
      poolSize: 1,
      methods: {},
      timeout: 30_000,
      heartbeatInterval: 30_000,
      ...options,
    };
  }

  /** Opens every connection and waits for each REGISTER_ACK. Rejects with the ERROR frame that refuses it. */
  async connect() {
    for (let index = 0; index < this.#options.poolSize; index++) await this.#open(index);
    this.#heartbeat = setInterval(() => {
      this.send({ type: "HEARTBEAT", from: this.#options.name, timestamp: Date.now() });
    }, this.#options.heartbeatInterval);
    return this;
  }

  #open(poolIndex) {
    const { path, name, encoding, poolSize, methods } = this.#options;
    const socket = createConnection(path);
    this.#sockets.push(socket);
    return new Promise((resolve, reject) => {
      socket.on("error", reject);
      socket.on("close", () => {
        this.emit("close", socket);
        reject(new Error("closed before REGISTER_ACK"));
      });
      readFrames(socket, encoding, (message) => {
        if (message.type === "REGISTER_ACK") resolve();
        if (message.type === "ERROR") reject(Object.assign(new Error(message.error.message), { frame: message }));
        this.#take(message, socket);
      });
      const metadata = poolSize > 1 ? { poolIndex, poolSize } : {};
      const register = {
        type: "REGISTER",
        serviceName: name,
        methods: Object.keys(methods),
        version: "1.0.0",
        metadata,
      };
      socket.write(frame(register, encoding));
    });
  }

  #take(message, socket) {
    this.emit(message.type, message);
    if (message.type === "CALL") {
      this.received.push(message);
      this.#execute(message, socket);
    }
    if (message.type !== "RESPONSE") return;
    const waiting = this.#pending.get(message.id);
    if (waiting === undefined) return;
    this.#pending.delete(message.id);
    clearTimeout(waiting.timer);
    if (message.status === "success") waiting.resolve(message.data);
    else waiting.reject(Object.assign(new Error(message.error.message), message.error));
  }

  async #execute(call, socket) {
    const answer = { type: "RESPONSE", id: call.id, from: call.to, to: call.from };
    this.#executing = call.context;
    try {
      const handler = this.#options.methods[call.method];
      if (handler === undefined)
        throw Object.assign(new Error(`no method ${call.method}`), { code: "METHOD_NOT_FOUND" });
      const data = await handler(call.params, call.context);
      this.#write(socket, { ...answer, status: "success", data, context: call.context });
    } catch ({ message, code, stack }) {
      this.#write(socket, { ...answer, status: "error", error: { message, code, stack }, context: call.context });
    } finally {
      this.#executing = undefined;
    }
  }

  /** Calls a method, with a context as the old library makes it. */
  call(to, method, params, { id = makeId("req"), context = this.newContext(), ...more } = {}) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(Object.assign(new Error("waited the whole timeout"), { code: "OLD_TIMEOUT" }));
      }, this.#options.timeout);
      this.#pending.set(id, { resolve, reject, timer });
      this.send({ type: "CALL", id, from: this.#options.name, to, method, params, context, ...more });
    });
  }

  /** The context of a call that is made now: the one being executed or a new one, with our own name appended. */
  newContext() {
    const { name, timeout } = this.#options;
    const begun = { root: makeId("root"), chain: [name], depth: 1, deadline: Date.now() + timeout };
    const { root, chain, depth, deadline } = this.#executing ?? begun;
    return { root, chain: [...chain, name], depth: depth + 1, deadline };
  }

  /** Sends any message on the next connection in turn. */
  send(message) {
    const live = this.#sockets.filter((socket) => !socket.destroyed);
    if (live.length > 0) this.#write(live[this.#turn++ % live.length], message);
  }

  /** Sends bytes as they are. */
  sendBytes(bytes) {
    this.#sockets[0].write(bytes);
  }

  #write(socket, message) {
    if (!socket.destroyed) socket.write(frame(message, this.#options.encoding));
  }

  /** Drops one connection without a word. */
  drop(index = 0) {
    this.#sockets[index].destroy();
  }

  close() {
    clearInterval(this.#heartbeat);
    for (const { timer } of this.#pending.values()) clearTimeout(timer);
    for (const socket of this.#sockets) socket.destroy();
  }
}
