import { decodeMsgpack, messageOf, reviveBinary } from "./codec";
import { running, textOf } from "./context";
import { asyncDispose, TypedEmitter } from "./emitter";
import { IPCError, IPCErrorCode } from "./errors";
import { cancelled, errorOf, notConnected, pointless, stillAtWork } from "./failures";
import {
  type Addon,
  addon,
  CommandKind,
  checked,
  Flag,
  type NativeClient,
  type NativeFailure,
  RECORD_INTS,
  RecordKind,
  type SessionEvent,
} from "./native";
import { type ClientOptions, clientOptions, invalid, nativeClientOptions, serviceWait, time } from "./options";
import { type PendingCall, PendingCalls, Settlers } from "./pending";
import { CommandQueue } from "./queue";
import { Requests } from "./requests";
import { Routes } from "./routes";
import { facadeOf, type Notifier, type Service } from "./service";
import { requestOf } from "./signal";
import { canCompile, type TapeReader, tapeReader } from "./tape";
import type {
  CallOptions,
  ClientStats,
  DisconnectOptions,
  DrainOptions,
  GatewayErrorEvent,
  IPCClientConfig,
  IPCClientEvents,
  IPCContext,
  MethodHandler,
} from "./types";

/** What the native side waits for handlers at most, in milliseconds. */
const DRAIN_TIMEOUT_MS = 30_000;
const NO_VALUES: unknown[] = [];

interface Waiting {
  resolve: () => void;
  reject: (error: Error) => void;
}

/**
 * A service that calls others through the gateway and answers their calls.
 *
 * ```ts
 * const client = new IPCClient({ serviceName: "order-service" });
 * client.registerMethod("getOrder", async ({ id }) => ({ id, total: 99 }));
 * await client.connect();
 * const user = await client.call("user-service", "getUser", { id: 7 });
 * await client.disconnect();
 * ```
 *
 * A connected client keeps the process alive, as a socket does; after `disconnect()` the process can exit by itself.
 */
export class IPCClient extends TypedEmitter<IPCClientEvents> {
  private readonly config: ClientOptions;
  private readonly native: NativeClient;
  private readonly queue: CommandQueue;
  private readonly pending = new PendingCalls();
  private readonly settlers = new Settlers();
  private readonly requests: Requests;
  private readonly routes = new Routes((service, method) => addon().addRoute(this.native, service, method));
  private connected = false;
  private wantsIds = false;
  private connecting: Waiting[] = [];
  private disconnecting: Waiting[] = [];
  private draining: Waiting[] = [];
  /** Connected, or about to be: there may be calls to finish. */
  private isJoined = false;
  // The native side keeps these weakly while nothing is going on, so they are kept here.
  private readonly callbacks: { dispatch: Parameters<Addon["createClient"]>[1]; drain: () => void };

  /** A client that is not connected. Throws `INVALID_ARGUMENT` for options that make no sense. */
  constructor(config: IPCClientConfig) {
    super();
    this.config = clientOptions(config);
    this.queue = new CommandQueue(() => this.native, this.config.serializer);
    this.requests = new Requests(this, this.queue, this.config.contextTracking, {
      log: (message, payload) => this.log(message, payload),
      executed: (method, requestId, error) => this.executed(method, requestId, error),
    });
    this.callbacks = {
      dispatch: (...batch) => this.dispatch(...batch),
      drain: this.queue.drain,
    };
    const { dispatch, drain } = this.callbacks;
    this.native = checked(addon().createClient(nativeClientOptions(this.config), dispatch, drain));
    this.listenersChanged();
  }

  /**
   * Connects to the gateway and registers this service. Rejects at once, with the code that says why: `CONNECTION_FAILED` when
   * there is no gateway, `DUPLICATE_SERVICE` when the name is taken. Does nothing when connected.
   */
  connect(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.connecting.push({ resolve, reject });
      if (this.connecting.length > 1) return;
      this.isJoined = true;
      this.log("connecting", { gatewayPath: this.config.gatewayPath });
      this.queue.drain();
      addon().connect(this.native);
    });
  }

  /**
   * Leaves the gateway: calls that wait are rejected with `CONNECTION_LOST` (for their service: with `NOT_CONNECTED`), the callers of requests in work are told
   * `SHUTTING_DOWN`, and their handlers' signals abort. Resolves when that is done. The client can be connected again.
   *
   * With `{ drain: true }`, or a number of milliseconds, it takes no more calls first, and finishes those in work; what is
   * not finished in time ends as above. See {@link drain}.
   */
  disconnect(options?: DisconnectOptions): Promise<void> {
    const drain = options?.drain;
    if (drain === undefined || drain === false || drain === 0) return this.leave();
    return this.drain(drain === true ? {} : { timeout: drain }).then(
      () => this.leave(),
      (error) => (error.code === IPCErrorCode.TIMEOUT ? this.leave() : Promise.reject(error)),
    );
  }

  /**
   * Leaves the round without dropping a call: asks the gateway to send no more calls here, and resolves when every handler has
   * finished. Other instances of this service go on; where there are none, callers are told `SHUTTING_DOWN`. This client's own calls
   * go on. {@link disconnect} should follow, and takes it back; it can do both, by `{ drain: true }`.
   *
   * Gateways of version 1 cannot be asked: then it only waits for the handlers that run. Drains that overlap end together.
   *
   * @throws {@link IPCError} `TIMEOUT` when handlers are still at work after `timeout` milliseconds
   */
  drain(options?: DrainOptions): Promise<void> {
    return new Promise((resolve, reject) => {
      const timeoutMs = Math.min(time("timeout", options?.timeout, DRAIN_TIMEOUT_MS, 1), DRAIN_TIMEOUT_MS);
      if (!this.isJoined) return resolve();
      const timer = setTimeout(() => {
        this.draining = this.draining.filter((other) => other !== waiting);
        reject(stillAtWork());
      }, timeoutMs);
      const end = (settle: () => void) => {
        clearTimeout(timer);
        settle();
      };
      const waiting: Waiting = { resolve: () => end(resolve), reject: (error) => end(() => reject(error)) };
      this.draining.push(waiting);
      this.queue.drain();
      addon().finishRequests(this.native);
    });
  }

  private leave(): Promise<void> {
    this.isJoined = false;
    return new Promise((resolve, reject) => {
      const willTell = this.connected || this.connecting.length > 0;
      this.queue.drain();
      addon().disconnect(this.native);
      if (willTell) this.disconnecting.push({ resolve, reject });
      else resolve();
    });
  }

  /** `await using client = …`: disconnects at the end of the block. */
  [asyncDispose](): Promise<void> {
    return this.disconnect();
  }

  /** Has `handler` answer calls of this method, in place of any earlier one. Takes effect at once, also while connected. */
  registerMethod(methodName: string, handler: MethodHandler): void {
    if (typeof methodName !== "string") throw invalid("the name of a method must be a string");
    if (typeof handler !== "function") throw invalid(`the handler of ${methodName} must be a function`);
    this.requests.add(methodName, handler, (number) => {
      checked(addon().registerMethod(this.native, methodName, number));
    });
    this.log("method registered", { method: methodName });
  }

  /** Lets callers of this method be told `METHOD_NOT_FOUND` from now on. Requests in work go on. */
  unregisterMethod(methodName: string): void {
    if (!this.requests.remove(methodName)) return;
    addon().unregisterMethod(this.native, methodName);
    this.log("method removed", { method: methodName });
  }

  /**
   * Calls a method of another service.
   *
   * In a handler, the call continues the chain of the call that the handler answers, and ends with it at the latest: it is given up
   * when that is, with the code `CANCELLED`, and so is whatever the callee has called for it.
   *
   * @param contextOrOptions a context to continue instead, or options of this call
   * @returns what the method returned
   * @throws {@link IPCError} with the code and the message of the other side, or the reason why there is no answer
   */
  call<T = any>(
    targetService: string,
    method: string,
    params?: any,
    contextOrOptions?: IPCContext | CallOptions,
  ): Promise<T> {
    return this.begin<T>(CommandKind.Call, targetService, method, params, contextOrOptions);
  }

  /**
   * Calls a method of another service without waiting for it, or learning how it went: resolves when the notification is on its
   * way. It is dropped where it cannot be delivered. The handler runs as for a call, and nobody is told what it returns or throws.
   * Like a call, it continues the chain of the handler that sends it; `timeout` is how long the receiving handler may take.
   *
   * @throws {@link IPCError} for what this side finds out: `NOT_CONNECTED`, `SERIALIZATION_FAILED`, `OVERLOADED` and the like. That
   * there is no such service is not told.
   */
  notify(
    targetService: string,
    method: string,
    params?: any,
    contextOrOptions?: IPCContext | CallOptions,
  ): Promise<void> {
    return this.begin<void>(CommandKind.Notify, targetService, method, params, contextOrOptions);
  }

  private begin<T>(
    kind: CommandKind.Call | CommandKind.Notify,
    service: string,
    method: string,
    params: unknown,
    contextOrOptions: IPCContext | CallOptions | undefined,
  ): Promise<T> {
    const promise = new Promise<T>(this.settlers.take);
    const { resolve, reject } = this.settlers;
    try {
      this.start(kind, { resolve, reject, service, method, release: undefined }, params, contextOrOptions);
    } catch (error) {
      reject(error as Error);
    }
    return promise;
  }

  /**
   * The methods of a service, as methods of an object whose type is yours:
   * `client.service<UserApi>("user-service").getUser({ id: 7 })`.
   */
  service<Api = Record<string, (params?: any) => any>>(serviceName: string): Service<Api> {
    return facadeOf((method, params, contextOrOptions) => this.call(serviceName, method, params, contextOrOptions));
  }

  /**
   * The same for notifications: `client.notifier<AuditApi>("audit").record({ line: "order placed" })` resolves when it is on its way,
   * see {@link notify}.
   */
  notifier<Api = Record<string, (params?: any) => any>>(serviceName: string): Notifier<Api> {
    return facadeOf((method, params, contextOrOptions) => this.notify(serviceName, method, params, contextOrOptions));
  }

  /** The names of the methods that others can call. */
  getRegisteredMethods(): string[] {
    return this.requests.methods;
  }

  /** Whether this client is connected and registered. */
  isConnected(): boolean {
    return this.connected;
  }

  /** How things stand. */
  getStatus(): {
    connected: boolean;
    registered: boolean;
    serviceName: string;
    pendingRequests: number;
    registeredMethods: number;
  } {
    return {
      connected: this.connected,
      registered: this.connected,
      serviceName: this.config.serviceName,
      pendingRequests: this.pending.size,
      registeredMethods: this.requests.methodCount,
    };
  }

  /** Figures for monitoring. */
  stats(): ClientStats {
    return JSON.parse(addon().clientStats(this.native));
  }

  protected override listenersChanged(): void {
    // Also called while the base class is constructed.
    if (this.native === undefined) return;
    const wanted =
      this.isLogging() || this.listenerCount("response-received") > 0 || this.listenerCount("method-executed") > 0;
    if (wanted === this.wantsIds) return;
    this.wantsIds = wanted;
    addon().setWantsIds(this.native, wanted ? 1 : 0);
  }

  private start(
    kind: CommandKind.Call | CommandKind.Notify,
    call: PendingCall,
    params: unknown,
    contextOrOptions: IPCContext | CallOptions | undefined,
  ): void {
    const { service, method } = call;
    if (typeof service !== "string" || typeof method !== "string") {
      // Who is not connected hears that first, as from the JavaScript library.
      if (!this.connected && this.config.waitForService === 0) throw notConnected(call);
      throw invalid("the names of the service and of the method must be strings");
    }
    let timeoutMs = -1;
    let waitMs = kind === CommandKind.Call ? this.config.waitForService : 0;
    let context: IPCContext | undefined;
    let signal: AbortSignal | undefined;
    if (contextOrOptions !== undefined && contextOrOptions !== null) {
      if ("root" in contextOrOptions || "chain" in contextOrOptions) {
        context = contextOrOptions as IPCContext;
        // That of our own requests is not for this: what is called for them ends with them anyway.
        if (requestOf(context) === undefined) signal = context.signal;
      } else {
        ({ context, signal } = contextOrOptions);
        timeoutMs = time("timeout", contextOrOptions.timeout, -1, 1);
        if (kind === CommandKind.Call) waitMs = serviceWait(contextOrOptions.waitForService, waitMs);
      }
    }
    // A lane needs no gateway.
    if (!this.connected && waitMs === 0 && addon().canCall(this.native, service) === 0) throw notConnected(call);
    if (signal?.aborted) throw cancelled(call, signal);
    let parentSlot = -1;
    let parentGeneration = 0;
    let contextText = "";
    const parent = context === undefined ? running.getStore() : requestOf(context);
    let parentSignal: AbortSignal | undefined;
    if (parent !== undefined) {
      if (parent.givenUp !== undefined) throw pointless(call, parent.givenUp);
      if (parent.inWork && parent.owner === this) {
        parentSlot = parent.slot;
        parentGeneration = parent.generation;
      } else {
        contextText = textOf(parent.context);
        // Another client's: nobody else would know what this call is made for.
        if (parent.inWork && kind === CommandKind.Call) parentSignal = parent.signal;
      }
    } else if (context !== undefined) {
      contextText = textOf(context);
    }
    const route = this.routes.number(service, method);
    const routeText = route === -1 ? JSON.stringify([service, method]) : "";
    const slot = this.pending.add(call);
    const generation = this.pending.generationOf(slot);
    try {
      this.queue.call(
        kind,
        slot,
        generation,
        route,
        routeText,
        params,
        timeoutMs,
        waitMs,
        parentSlot,
        parentGeneration,
        contextText,
      );
    } catch (error) {
      this.pending.take(slot, generation);
      throw error;
    }
    if (kind === CommandKind.Call) {
      if (signal !== undefined) this.follow(signal, call, slot, generation);
      if (parentSignal !== undefined) this.follow(parentSignal, call, slot, generation);
    }
    if (this.wantsIds && this.isLogging()) {
      this.log(kind === CommandKind.Call ? "call sent" : "notification sent", { service, method });
    }
  }

  /** Gives the call up when the signal aborts. */
  private follow(signal: AbortSignal, call: PendingCall, slot: number, generation: number): void {
    const abort = () => {
      if (this.pending.take(slot, generation) === undefined) return;
      call.release?.();
      this.queue.cancel(slot, generation);
      call.reject(cancelled(call, signal));
    };
    signal.addEventListener("abort", abort, { once: true });
    const { release } = call;
    call.release = () => {
      release?.();
      signal.removeEventListener("abort", abort);
    };
  }

  /** Takes what one wakeup brought. */
  private dispatch(
    count: number,
    text: string | undefined,
    bytes: Buffer | undefined,
    large: (string | Buffer)[] | undefined,
    pieces: string[] | undefined,
    definitions: string | undefined,
  ): void {
    const { records } = addon();
    const tape = reader();
    if (definitions !== undefined) tape.define(definitions);
    tape.begin(pieces);
    const values: unknown[] = text === undefined ? NO_VALUES : JSON.parse(text);
    let at = 0;
    let largeAt = 0;
    /** The value that the record at `base` announces. */
    const value = (base: number): unknown => {
      const flags = records[base]!;
      if (flags & Flag.Tape) return tape.read();
      if ((flags & ~(Flag.KindMask | Flag.TapeContext)) === 0) return values[at++];
      if (flags & Flag.Absent) return undefined;
      if (flags & Flag.Plain) return large![largeAt++];
      if (flags & Flag.LargeMsgpack) return decodeMsgpack(large![largeAt++] as Buffer);
      if (flags & Flag.Msgpack) {
        const start = records[base + 4]!;
        return decodeMsgpack(bytes!, start, start + records[base + 5]!);
      }
      const parsed = flags & Flag.Large ? JSON.parse(large![largeAt++] as string) : values[at++];
      return flags & Flag.Binary ? reviveBinary(parsed) : parsed;
    };
    const { wantsIds } = this;
    for (let base = 0; base < count * RECORD_INTS; base += RECORD_INTS) {
      const slot = records[base + 1]!;
      const generation = records[base + 2]!;
      switch (records[base]! & Flag.KindMask) {
        case RecordKind.Result: {
          const requestId = wantsIds ? (values[at++] as string) : undefined;
          this.succeed(slot, generation, value, base, requestId);
          break;
        }
        case RecordKind.Failure: {
          const requestId = wantsIds ? (values[at++] as string) : undefined;
          this.failCall(slot, generation, values[at++] as NativeFailure, requestId);
          break;
        }
        case RecordKind.Request: {
          const context = (records[base]! & Flag.TapeContext ? tape.read() : values[at++]) as IPCContext;
          const requestId = wantsIds ? (values[at++] as string) : undefined;
          this.requests.receive(slot, generation, context, value, base, requestId);
          break;
        }
        case RecordKind.Caller:
          this.requests.nameCaller(slot, values[at++] as string);
          break;
        case RecordKind.Expired:
          this.requests.expire(slot, generation, values[at++] as string);
          break;
        default:
          this.tell(values[at++] as SessionEvent);
      }
    }
  }

  private succeed(
    slot: number,
    generation: number,
    value: (base: number) => unknown,
    base: number,
    requestId: string | undefined,
  ): void {
    const call = this.pending.take(slot, generation);
    try {
      // Always taken: what follows in the batch stands behind it.
      const result = value(base);
      call?.release?.();
      call?.resolve(result);
      // That of a notification is empty: it has no response.
      if (requestId) this.responseReceived(requestId, true, undefined);
    } catch (error) {
      call?.release?.();
      call?.reject(error as Error);
      if (requestId) this.responseReceived(requestId, false, messageOf(error));
    }
  }

  private failCall(slot: number, generation: number, failure: NativeFailure, requestId: string | undefined): void {
    const call = this.pending.take(slot, generation);
    if (call !== undefined) {
      call.release?.();
      const details: Record<string, unknown> = { service: call.service, method: call.method, origin: failure.origin };
      if (failure.stack !== undefined) details.remoteStack = failure.stack;
      call.reject(new IPCError(failure.message, failure.code ?? IPCErrorCode.EXECUTION_FAILED, details));
    }
    // One that was refused before it was sent has no id.
    if (requestId) this.responseReceived(requestId, false, failure.message);
  }

  private responseReceived(requestId: string, success: boolean, error: string | undefined): void {
    const payload = error === undefined ? { requestId, success } : { requestId, success, error };
    if (this.listenerCount("response-received") > 0) this.emitSafely("response-received", payload);
    if (this.isLogging()) this.log("response received", payload);
  }

  private executed(method: string, requestId: string, error: string | undefined): void {
    const success = error === undefined;
    const payload = success ? { method, requestId, success } : { method, requestId, success, error };
    if (this.listenerCount("method-executed") > 0) this.emitSafely("method-executed", payload);
    if (this.isLogging()) this.log("method executed", payload);
  }

  /** Something about the connection. */
  private tell(told: SessionEvent): void {
    switch (told.event) {
      case "connected":
        this.connected = true;
        this.log("connected", { gatewayPath: this.config.gatewayPath });
        this.emitSafely("connected");
        break;
      case "registered":
        this.log("registered", { methods: this.getRegisteredMethods() });
        this.emitSafely("registered");
        for (const { resolve } of take(this, "connecting")) resolve();
        break;
      case "already-connected":
        for (const { resolve } of take(this, "connecting")) resolve();
        break;
      case "disconnected":
        this.connected = false;
        this.log("disconnected", { reason: told.reason });
        if (!this.config.autoReconnect) this.isJoined = false;
        this.emitSafely("disconnected");
        for (const { resolve } of take(this, "disconnecting")) resolve();
        break;
      case "reconnecting":
        this.log("reconnecting", { attempt: told.attempt, delayMs: told.delay_ms });
        this.report(told.error);
        break;
      case "connect-failed": {
        const error = errorOf(told.error);
        for (const { reject } of take(this, "connecting")) reject(error);
        if (!this.connected) for (const { resolve } of take(this, "disconnecting")) resolve();
        this.report(told.error);
        break;
      }
      case "drained": {
        const { in_work } = told;
        for (const { resolve, reject } of take(this, "draining")) in_work === 0 ? resolve() : reject(stillAtWork());
        break;
      }
      case "gateway-draining":
        this.log("gateway is about to stop", undefined);
        this.emitSafely("gateway-draining");
        break;
      case "gateway-error": {
        const { message, code, stack } = told.error;
        const payload: GatewayErrorEvent = { message, code: code ?? IPCErrorCode.EXECUTION_FAILED };
        if (stack !== undefined) payload.stack = stack;
        this.log("gateway error", payload);
        this.emitSafely("gateway-error", payload);
        break;
      }
      case "error":
        this.report(told.error);
    }
  }

  /** Emits `error` where somebody listens, see {@link IPCClientEvents.error}. */
  private report(failure: NativeFailure): void {
    this.log("error", failure);
    if (this.listenerCount("error") > 0) this.emitSafely("error", errorOf(failure));
  }

  private isLogging(): boolean {
    return this.config.debug || this.listenerCount("log") > 0;
  }

  private log(message: string, data: unknown): void {
    if (!this.isLogging()) return;
    const { serviceName, debug } = this.config;
    if (debug) console.log(`[${serviceName}] ${message}`, data);
    this.emitSafely("log", { serviceName, message, data, timestamp: Date.now() });
  }
}

let sharedReader: TapeReader | undefined;

/** The reader of what all clients get. */
function reader(): TapeReader {
  if (sharedReader === undefined) {
    sharedReader = tapeReader(addon());
    if (canCompile()) addon().useTape();
  }
  return sharedReader;
}

/** Those who wait for something, who do so no longer. */
function take(client: IPCClient, which: "connecting" | "disconnecting" | "draining"): Waiting[] {
  const holder = client as unknown as Record<typeof which, Waiting[]>;
  const waiting = holder[which];
  holder[which] = [];
  return waiting;
}
