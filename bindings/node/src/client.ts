import { decodeMsgpack, messageOf, reviveBinary } from "./codec";
import { type Running, running } from "./context";
import { TypedEmitter } from "./emitter";
import { IPCError, IPCErrorCode } from "./errors";
import {
  type Addon,
  addon,
  checked,
  Flag,
  type NativeClient,
  type NativeFailure,
  RECORD_INTS,
  RecordKind,
} from "./native";
import { type ClientOptions, clientOptions, invalid, time } from "./options";
import { type PendingCall, PendingCalls, Settlers } from "./pending";
import { CommandQueue } from "./queue";
import { type Service, serviceOf } from "./service";
import { canCompile, type TapeReader, tapeReader } from "./tape";
import type {
  CallOptions,
  GatewayErrorEvent,
  IPCClientConfig,
  IPCClientEvents,
  IPCContext,
  MethodHandler,
} from "./types";

/** Before Node 18.18 there is none: then the method has a symbol that nobody asks for. */
const asyncDispose: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol("Symbol.asyncDispose");
/** What a stack that is sent to a caller may have at most, in characters. */
const STACK_LENGTH_MAX = 8192;
const NO_VALUES: unknown[] = [];

/** Everything that is neither a result nor a request; see `native/src/events.rs`. */
type SessionEvent =
  | { event: "connected" | "registered" | "already-connected" }
  | { event: "disconnected"; reason: string }
  | { event: "reconnecting"; attempt: number; delay_ms: number; error: NativeFailure }
  | { event: "connect-failed" | "gateway-error" | "error"; error: NativeFailure };

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
  /** By the number that the native side knows a method by. Numbers are not used again. */
  private readonly handlers: ({ method: string; handler: MethodHandler } | undefined)[] = [];
  private readonly handlerNumbers = new Map<string, number>();
  private nextHandler = 0;
  /** By the slot that the native side gave them. */
  private readonly requests: (Running | undefined)[] = [];
  private readonly routes = new Map<string, Map<string, number>>();
  /** The route of the latest call, often that of the next as well. */
  private latestRoute: { service: string; method: string; route: number } = { service: "", method: "", route: -1 };
  private connected = false;
  private wantsIds = false;
  private connecting: Waiting[] = [];
  private disconnecting: Waiting[] = [];
  // The native side keeps these weakly while nothing is going on, so they are kept here.
  private readonly callbacks: { dispatch: Parameters<Addon["createClient"]>[1]; drain: () => void };

  /** A client that is not connected. Throws `INVALID_ARGUMENT` for options that make no sense. */
  constructor(config: IPCClientConfig) {
    super();
    this.config = clientOptions(config);
    this.queue = new CommandQueue(() => this.native, this.config.serializer);
    this.callbacks = {
      dispatch: (...batch) => this.dispatch(...batch),
      drain: this.queue.drain,
    };
    const { dispatch, drain } = this.callbacks;
    this.native = checked(addon().createClient(JSON.stringify(this.config), dispatch, drain));
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
      this.log("connecting", { gatewayPath: this.config.gatewayPath });
      this.queue.drain();
      addon().connect(this.native);
    });
  }

  /**
   * Leaves the gateway: calls that wait are rejected with `CONNECTION_LOST`, the callers of requests in work are told
   * `SHUTTING_DOWN`. Resolves when that is done. The client can be connected again.
   */
  disconnect(): Promise<void> {
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
    const known = this.handlerNumbers.get(methodName);
    const number = known ?? this.nextHandler++;
    if (known === undefined) {
      checked(addon().registerMethod(this.native, methodName, number));
      this.handlerNumbers.set(methodName, number);
    }
    this.handlers[number] = { method: methodName, handler };
    this.log("method registered", { method: methodName });
  }

  /** Lets callers of this method be told `METHOD_NOT_FOUND` from now on. Requests in work go on. */
  unregisterMethod(methodName: string): void {
    const number = this.handlerNumbers.get(methodName);
    if (number === undefined) return;
    this.handlerNumbers.delete(methodName);
    this.handlers[number] = undefined;
    addon().unregisterMethod(this.native, methodName);
    this.log("method removed", { method: methodName });
  }

  /**
   * Calls a method of another service.
   *
   * In a handler, the call continues the chain of the call that the handler answers, and ends with it at the latest.
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
    const promise = new Promise<T>(this.settlers.take);
    const { resolve, reject } = this.settlers;
    // A lane needs no gateway.
    if (!this.connected && !(typeof targetService === "string" && addon().canCall(this.native, targetService))) {
      const details = { service: targetService, method };
      reject(new IPCError("Not connected to Gateway", IPCErrorCode.NOT_CONNECTED, details));
      return promise;
    }
    const call: PendingCall = { resolve, reject, service: targetService, method, release: undefined };
    try {
      this.start(call, params, contextOrOptions);
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
    return serviceOf<Api>(this, serviceName);
  }

  /** The names of the methods that others can call. */
  getRegisteredMethods(): string[] {
    return [...this.handlerNumbers.keys()];
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
      registeredMethods: this.handlerNumbers.size,
    };
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

  private start(call: PendingCall, params: unknown, contextOrOptions: IPCContext | CallOptions | undefined): void {
    const { service, method } = call;
    if (typeof service !== "string" || typeof method !== "string") {
      throw invalid("the names of the service and of the method must be strings");
    }
    let timeoutMs = -1;
    let context: IPCContext | undefined;
    let signal: AbortSignal | undefined;
    if (contextOrOptions !== undefined && contextOrOptions !== null) {
      if ("root" in contextOrOptions || "chain" in contextOrOptions) {
        context = contextOrOptions as IPCContext;
      } else {
        ({ context, signal } = contextOrOptions);
        timeoutMs = time("timeout", contextOrOptions.timeout, -1, 1);
      }
    }
    if (signal?.aborted) throw cancelled(call, signal);
    let parentSlot = -1;
    let parentGeneration = 0;
    let contextText = "";
    const parent = running.getStore();
    if (parent !== undefined && (context === undefined || context === parent.context)) {
      if (parent.inWork && parent.owner === this) {
        parentSlot = parent.slot;
        parentGeneration = parent.generation;
      } else {
        contextText = textOf(parent.context);
      }
    } else if (context !== undefined) {
      contextText = textOf(context);
    }
    const route = this.route(service, method);
    const routeText = route === -1 ? JSON.stringify([service, method]) : "";
    const slot = this.pending.add(call);
    const generation = this.pending.generationOf(slot);
    try {
      this.queue.call(slot, generation, route, routeText, params, timeoutMs, parentSlot, parentGeneration, contextText);
    } catch (error) {
      this.pending.take(slot, generation);
      throw error;
    }
    if (signal !== undefined) this.follow(signal, call, slot, generation);
    if (this.wantsIds && this.isLogging()) this.log("call sent", { service, method });
  }

  /** Gives the call up when the signal aborts. */
  private follow(signal: AbortSignal, call: PendingCall, slot: number, generation: number): void {
    const abort = () => {
      if (this.pending.take(slot, generation) === undefined) return;
      this.queue.cancel(slot, generation);
      call.reject(cancelled(call, signal));
    };
    signal.addEventListener("abort", abort, { once: true });
    call.release = () => signal.removeEventListener("abort", abort);
  }

  /** The number that the native side knows this service and method by; -1 when it knows too many. */
  private route(service: string, method: string): number {
    const { latestRoute: latest } = this;
    if (latest.service === service && latest.method === method && latest.route !== -1) return latest.route;
    let methods = this.routes.get(service);
    let route = methods?.get(method);
    if (route !== undefined) {
      this.latestRoute = { service, method, route };
      return route;
    }
    route = addon().addRoute(this.native, service, method);
    if (route === -1) return route;
    if (methods === undefined) {
      methods = new Map();
      this.routes.set(service, methods);
    }
    methods.set(method, route);
    return route;
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
          const handler = records[base + 3]!;
          this.receive(slot, generation, handler, context, value, base, requestId);
          break;
        }
        case RecordKind.Expired:
          this.expire(slot, generation, values[at++] as string);
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
      if (requestId !== undefined) this.responseReceived(requestId, true, undefined);
    } catch (error) {
      call?.release?.();
      call?.reject(error as Error);
      if (requestId !== undefined) this.responseReceived(requestId, false, messageOf(error));
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

  /** Runs the handler of a request. */
  private receive(
    slot: number,
    generation: number,
    number: number,
    context: IPCContext,
    value: (base: number) => unknown,
    base: number,
    requestId: string | undefined,
  ): void {
    const entry = number === -1 ? undefined : this.handlers[number];
    const method = entry?.method ?? "";
    const request: Running = { owner: this, context, slot, generation, method, requestId, inWork: true };
    this.requests[slot] = request;
    let outcome: unknown;
    try {
      const params = value(base);
      if (entry === undefined) throw new IPCError("the method was just removed", IPCErrorCode.METHOD_NOT_FOUND);
      const { handler } = entry;
      outcome = this.config.contextTracking ? running.run(request, handler, params, context) : handler(params, context);
      if (
        typeof outcome === "object" &&
        outcome !== null &&
        typeof (outcome as PromiseLike<unknown>).then === "function"
      ) {
        (outcome as PromiseLike<unknown>).then(
          (result) => this.answer(request, result),
          (error) => this.fail(request, error),
        );
        return;
      }
    } catch (error) {
      this.fail(request, error);
      return;
    }
    this.answer(request, outcome);
  }

  private answer(request: Running, result: unknown): void {
    if (!request.inWork) return;
    try {
      this.queue.result(request.slot, request.generation, result);
    } catch (error) {
      this.fail(request, error);
      return;
    }
    this.finish(request, undefined);
  }

  private fail(request: Running, thrown: unknown): void {
    if (!request.inWork) return;
    const message = messageOf(thrown);
    this.queue.failure(request.slot, request.generation, { message, code: codeOf(thrown), stack: stackOf(thrown) });
    this.finish(request, message);
  }

  /** A request needs no answer any more; whoever works on it may go on. */
  private expire(slot: number, generation: number, reason: string): void {
    const request = this.requests[slot];
    if (request === undefined || request.generation !== generation) return;
    this.log("request expired", { method: request.method, reason });
    this.finish(request, reason);
  }

  private finish(request: Running, error: string | undefined): void {
    request.inWork = false;
    this.requests[request.slot] = undefined;
    const { method, requestId } = request;
    if (requestId === undefined) return;
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
function take(client: IPCClient, which: "connecting" | "disconnecting"): Waiting[] {
  const holder = client as unknown as Record<typeof which, Waiting[]>;
  const waiting = holder[which];
  holder[which] = [];
  return waiting;
}

function errorOf({ message, code, stack }: NativeFailure): IPCError {
  const details = stack === undefined ? undefined : { remoteStack: stack };
  return new IPCError(message, code ?? IPCErrorCode.CONNECTION_FAILED, details);
}

function cancelled({ service, method }: PendingCall, { reason }: AbortSignal): IPCError {
  const why = `the call of ${service}.${method} was given up: ${messageOf(reason)}`;
  const error = new IPCError(why, IPCErrorCode.CANCELLED, { service, method });
  error.cause = reason;
  return error;
}

/** The text of a context; of what it holds beside the four fields nothing. */
function textOf({ root, chain, depth, deadline }: IPCContext): string {
  return JSON.stringify({ root, chain, depth, deadline: Number.isFinite(deadline) ? Math.floor(deadline) : deadline });
}

function codeOf(thrown: unknown): string {
  const code = textIn(thrown, "code");
  return code === undefined || code === "" ? IPCErrorCode.EXECUTION_FAILED : code;
}

function stackOf(thrown: unknown): string | undefined {
  return textIn(thrown, "stack")?.slice(0, STACK_LENGTH_MAX);
}

/** A text that whatever was thrown may have; reading it may throw again. */
function textIn(thrown: unknown, key: "code" | "stack"): string | undefined {
  try {
    const text = (thrown as Record<typeof key, unknown> | null | undefined)?.[key];
    return typeof text === "string" ? text : undefined;
  } catch {
    return undefined;
  }
}
