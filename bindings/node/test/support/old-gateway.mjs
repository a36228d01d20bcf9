// A gateway as the old JavaScript library's behaves, written from the description of protocol v1, with its faults: it believes
// `from`, routes an answer by the `to` that it claims and to a service's first connection only, reports calls that it cannot route
// by an ERROR frame, forgets the callers of a callee that dies, and never answers a call itself.
import { createServer } from "node:net";
import { frame, readFrames } from "./wire.mjs";

export class OldGateway {
  #encoding;
  #errorsNameTheCall;
  #server;
  #sockets = new Set();
  /** { sockets, turn } by service name. */
  services = new Map();
  /** Every message that came, in order. */
  received = [];

  constructor(path, { encoding = "json", errorsNameTheCall = true } = {}) {
    this.path = path;
    this.#encoding = encoding;
    this.#errorsNameTheCall = errorsNameTheCall;
  }

  async start() {
    this.#server = createServer((socket) => this.#serve(socket));
    await new Promise((resolve) => this.#server.listen(this.path, resolve));
    return this;
  }

  #serve(socket) {
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#sockets.delete(socket);
      // Losing the first connection removes the service; others stay in the rotation, dead or not.
      for (const [name, entry] of this.services) if (entry.sockets[0] === socket) this.services.delete(name);
    });
    readFrames(socket, this.#encoding, (message) => {
      this.received.push(message);
      this[message.type]?.(message, socket);
    });
  }

  REGISTER(message, socket) {
    const known = this.services.get(message.serviceName);
    if (known !== undefined && !(message.metadata?.poolIndex > 0)) {
      this.send(socket, this.#error("DUPLICATE_SERVICE", `${message.serviceName} is already registered`));
      socket.end();
      return;
    }
    if (known === undefined) this.services.set(message.serviceName, { sockets: [socket], turn: 0 });
    else known.sockets.push(socket);
    this.send(socket, { type: "REGISTER_ACK" });
  }

  CALL(message, socket) {
    const { depth, deadline } = message.context;
    const entry = this.services.get(message.to);
    const id = this.#errorsNameTheCall ? message.id : undefined;
    if (Date.now() > deadline) return this.send(socket, this.#error("DEADLINE_EXCEEDED", "too late", id));
    if (depth > 100) return this.send(socket, this.#error("MAX_DEPTH_EXCEEDED", "too deep", id));
    if (entry === undefined) {
      return this.send(socket, this.#error("SERVICE_NOT_FOUND", `${message.to} is not connected`, id));
    }
    this.send(entry.sockets[entry.turn++ % entry.sockets.length], message);
  }

  RESPONSE(message) {
    const caller = this.services.get(message.to);
    if (caller !== undefined) this.send(caller.sockets[0], message);
  }

  #error(code, message, id) {
    const named = id === undefined ? {} : { id };
    return { type: "ERROR", ...named, error: { message, code, stack: "of the gateway" }, timestamp: Date.now() };
  }

  send(socket, message) {
    if (!socket.destroyed) socket.write(frame(message, this.#encoding));
  }

  /** Sends a message to the first connection of a service. */
  sendTo(name, message) {
    this.send(this.services.get(name).sockets[0], message);
  }

  /** The messages of one type that came. */
  of(type) {
    return this.received.filter((message) => message.type === type);
  }

  async stop() {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
