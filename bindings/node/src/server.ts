import { asyncDispose, TypedEmitter } from "./emitter";
import { IPCError, IPCErrorCode } from "./errors";
import { addon, checked, type NativeGateway } from "./native";
import { type ServerOptions, serverOptions } from "./options";
import type { IPCServerConfig, IPCServerEvents, Serializer, ServerStats, ServiceEntry } from "./types";

/** What the gateway reports, in bits; the same numbers as in the native side. */
const enum Reported {
  Connections = 1,
  Services = 2,
  Calls = 4,
  Responses = 8,
  Warnings = 16,
  All = 31,
}

/** Which events of ours need which reports. */
const NEEDED: readonly [keyof IPCServerEvents, Reported][] = [
  ["connection", Reported.Connections],
  ["service-registered", Reported.Services],
  ["service-disconnected", Reported.Services],
  ["call-routed", Reported.Calls],
  ["response-routed", Reported.Responses],
  ["log", Reported.All],
];

/** A registered service, as the native side tells it. */
interface ServiceView {
  name: string;
  methods: string[];
  version: string | null;
  metadata: Record<string, unknown>;
  connectedAt: number;
  lastHeartbeat: number;
  instances: {
    pid: number | null;
    pidfdId: number | null;
    uid: number | null;
    gid: number | null;
    encoding: Serializer;
    connectedAt: number;
  }[];
}

interface Waiting {
  resolve: () => void;
  reject: (error: Error) => void;
}

/**
 * The gateway: services connect to it, and it carries their calls. It runs on a thread of its own, so a busy event loop does not slow
 * down calls between others.
 *
 * ```ts
 * const server = new IPCServer({ socketPath: "/tmp/my-app.sock" });
 * server.on("service-registered", ({ serviceName }) => console.log(serviceName));
 * await server.start();
 * ```
 */
export class IPCServer extends TypedEmitter<IPCServerEvents> {
  private readonly config: ServerOptions;
  private gateway: NativeGateway | undefined;
  private reported: number = 0;
  private stopping: Waiting[] = [];

  /** A server that is not started. Throws `INVALID_ARGUMENT` for options that make no sense. */
  constructor(config: Partial<IPCServerConfig> = {}) {
    super();
    this.config = serverOptions(config);
  }

  /**
   * Listens. A socket file that no gateway answers on is replaced; while another gateway answers on it, this one refuses to start.
   *
   * @throws {@link IPCError} saying why it cannot listen
   */
  async start(): Promise<void> {
    if (this.gateway !== undefined) {
      throw new IPCError("the server runs already", IPCErrorCode.INVALID_ARGUMENT);
    }
    const { socketPath, heartbeatInterval, timeout, protocol, lanes, policy, mode } = this.config;
    this.reported = this.wanted();
    const speaksV2 = protocol !== 1;
    const options = { socketPath, heartbeatInterval, timeout, events: this.reported, speaksV2, lanes, policy, mode };
    this.gateway = checked(addon().startGateway(JSON.stringify(options), (events) => this.deliver(events)));
    this.log("gateway started", { socketPath });
    this.emitSafely("started", { socketPath });
  }

  /**
   * Refuses new calls, lets those in flight finish for a while, closes every connection and removes the socket file. Does nothing when
   * it is not running.
   */
  stop(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.gateway === undefined) return resolve();
      this.stopping.push({ resolve, reject });
      addon().stopGateway(this.gateway);
    });
  }

  /** `await using server = …`: stops at the end of the block. */
  [asyncDispose](): Promise<void> {
    return this.stop();
  }

  /** The names of the services that are registered. */
  getConnectedServices(): string[] {
    const text = this.gateway && addon().gatewayServices(this.gateway);
    return text === undefined ? [] : JSON.parse(text);
  }

  /** What is known of a service; `undefined` when it is not registered. */
  getService(serviceName: string): ServiceEntry | undefined {
    const text = this.gateway && addon().gatewayService(this.gateway, serviceName);
    if (text === undefined) return undefined;
    const { name, methods, version, metadata, connectedAt, lastHeartbeat, instances }: ServiceView = JSON.parse(text);
    const first = instances[0];
    const socket = {
      ...(first?.pid != null && { pid: first.pid }),
      ...(first?.uid != null && { uid: first.uid }),
      ...(first?.gid != null && { gid: first.gid }),
      encoding: first?.encoding ?? "json",
      connections: instances.length,
    };
    const shown = instances.map(({ pid, pidfdId, uid, gid, encoding, connectedAt }) => ({
      ...(pid !== null && { pid }),
      ...(pidfdId !== null && { pidfdId }),
      ...(uid !== null && { uid }),
      ...(gid !== null && { gid }),
      encoding,
      connectedAt,
    }));
    const versions = version === null ? {} : { version };
    return { name, socket, instances: shown, methods, connectedAt, lastHeartbeat, metadata, ...versions };
  }

  /**
   * Reads the policy again and puts it in force. Calls in flight go on; connections that it does not allow any more are closed with
   * `PERMISSION_DENIED`. Waits for the file and for the system's list of users, as `readFileSync` does.
   *
   * @returns how many rules it has
   * @throws {@link IPCError} `INVALID_ARGUMENT` with line and column when it does not load: the old one stays in force
   */
  reloadPolicy(): number {
    const rules = this.gateway && addon().reloadPolicy(this.gateway);
    if (rules === undefined) throw new IPCError("the server is not running", IPCErrorCode.NOT_CONNECTED);
    return checked(rules);
  }

  /** Whether a service is registered. */
  isServiceConnected(serviceName: string): boolean {
    return this.gateway !== undefined && addon().gatewayService(this.gateway, serviceName) !== undefined;
  }

  /** How things stand. */
  getStatus(): { running: boolean; socketPath: string; connectedServices: number; services: string[] } {
    const services = this.getConnectedServices();
    const { socketPath } = this.config;
    return { running: this.gateway !== undefined, socketPath, connectedServices: services.length, services };
  }

  /** Figures for monitoring; `undefined` while it is not running. */
  stats(): ServerStats | undefined {
    const text = this.gateway && addon().gatewayStats(this.gateway);
    return text === undefined ? undefined : JSON.parse(text);
  }

  protected override listenersChanged(): void {
    if (this.gateway === undefined) return;
    const wanted = this.wanted();
    if (wanted === this.reported) return;
    this.reported = wanted;
    addon().setGatewayEvents(this.gateway, wanted);
  }

  /** The reports that somebody is interested in: for the others no work is done. */
  private wanted(): number {
    if (this.config.debug) return Reported.All;
    let wanted = 0;
    for (const [event, needed] of NEEDED) if (this.listenerCount(event) > 0) wanted |= needed;
    return wanted;
  }

  /** Takes what the gateway has reported. */
  private deliver(events: string): void {
    for (const [name, payload] of JSON.parse(events) as [string, any][]) this.tell(name, payload);
  }

  private tell(name: string, payload: any): void {
    switch (name) {
      case "started":
      case "stopped":
      case "unknown":
        // Told by `start` and by `ended`.
        return;
      case "connection":
        this.pass(name, payload.pid === null ? { id: payload.id } : payload, "program connected");
        return;
      case "closed":
        this.log("connection closed", payload);
        return;
      case "service-registered":
        if (payload.version === null) delete payload.version;
        this.pass(name, payload, "service registered");
        return;
      case "service-disconnected":
        this.log("service disconnected", payload);
        this.emitSafely(name, { serviceName: payload.serviceName });
        return;
      case "call-routed":
        this.pass(name, payload, "call routed");
        return;
      case "response-routed":
        this.pass(name, payload, "response routed");
        return;
      case "warning":
        this.log(payload.message, payload.service === undefined ? undefined : { serviceName: payload.service });
        return;
      case "socket-error":
        this.log("socket error", payload);
        this.emitSafely(name, new IPCError(payload.message, IPCErrorCode.CONNECTION_FAILED));
        return;
      case "ended":
        this.end(payload.failure);
    }
  }

  /** The gateway has stopped, or had to. */
  private end(failure: string | null): void {
    this.gateway = undefined;
    const waiting = this.stopping;
    this.stopping = [];
    this.log("gateway stopped", failure === null ? undefined : { failure });
    if (failure !== null) this.emitSafely("error", new IPCError(failure, IPCErrorCode.INTERNAL_ERROR));
    this.emitSafely("stopped");
    for (const { resolve } of waiting) resolve();
  }

  private pass(event: keyof IPCServerEvents, payload: unknown, message: string): void {
    this.log(message, payload);
    if (this.listenerCount(event) > 0) this.emitSafely(event, payload);
  }

  private log(message: string, data: unknown): void {
    const { debug } = this.config;
    if (debug) console.log(`[gateway] ${message}`, data ?? "");
    if (this.listenerCount("log") > 0) {
      this.emitSafely("log", { message, ...(data !== undefined && { data }), timestamp: Date.now() });
    }
  }
}
