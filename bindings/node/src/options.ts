import { IPCError, IPCErrorCode } from "./errors";
import type { IPCClientConfig, IPCServerConfig, LanePolicy, PolicySource, Protocol, Serializer } from "./types";

/** Where a gateway listens when nobody says otherwise. */
export const DEFAULT_SOCKET_PATH = "/tmp/bro-gateway.sock";
/** Heartbeats, timeouts and so on, in milliseconds: the readme's. */
const DEFAULT_INTERVAL_MS = 30_000;
const DEFAULT_RECONNECT_DELAY_MS = 5_000;
/** How long `waitForService: true` waits, in milliseconds; `SERVICE_WAIT_MS` of the native side. */
const DEFAULT_SERVICE_WAIT_MS = 10_000;
/** One day: longer times are shortened to it. */
const TIME_MAX_MS = 24 * 60 * 60 * 1000;

/** The options of a client with every default filled in. */
export type ClientOptions = Required<Omit<IPCClientConfig, "debug" | "waitForService">> & {
  debug: boolean;
  /** In milliseconds; 0: calls do not wait. */
  waitForService: number;
};
/** The options of a server with every default filled in. */
export type ServerOptions = Required<Omit<IPCServerConfig, "policy">> & { policy: PolicySource | undefined };

/** Fills in defaults. Throws `INVALID_ARGUMENT` for what makes no sense. */
export function clientOptions(config: IPCClientConfig): ClientOptions {
  if (typeof config !== "object" || config === null) throw invalid("the options of a client must be an object");
  if (typeof config.serviceName !== "string" || config.serviceName === "") {
    throw invalid("serviceName must be a string that is not empty");
  }
  const metadata = config.metadata ?? {};
  if (typeof metadata !== "object" || Array.isArray(metadata)) throw invalid("metadata must be an object");
  return {
    serviceName: config.serviceName,
    gatewayPath: path("gatewayPath", config.gatewayPath),
    autoReconnect: config.autoReconnect ?? true,
    reconnectDelay: time("reconnectDelay", config.reconnectDelay, DEFAULT_RECONNECT_DELAY_MS, 0),
    timeout: time("timeout", config.timeout, DEFAULT_INTERVAL_MS, 1),
    heartbeatInterval: time("heartbeatInterval", config.heartbeatInterval, DEFAULT_INTERVAL_MS, 1),
    waitForGateway: time("waitForGateway", config.waitForGateway, 0, 0),
    waitForService: serviceWait(config.waitForService, 0),
    debug: config.debug ?? false,
    serializer: serializer(config.serializer),
    poolSize: config.poolSize ?? 1,
    contextTracking: config.contextTracking ?? true,
    lanes: flag("lanes", config.lanes, true),
    laneSpinUs: spin(config.laneSpinUs),
    version: config.version ?? "1.0.0",
    metadata,
    protocol: protocol(config.protocol),
  };
}

/** Fills in defaults. Throws `INVALID_ARGUMENT` for what makes no sense. */
export function serverOptions(config: Partial<IPCServerConfig> = {}): ServerOptions {
  return {
    socketPath: path("socketPath", config.socketPath),
    heartbeatInterval: time("heartbeatInterval", config.heartbeatInterval, DEFAULT_INTERVAL_MS, 1),
    timeout: time("timeout", config.timeout, DEFAULT_INTERVAL_MS, 1),
    debug: config.debug ?? false,
    serializer: serializer(config.serializer),
    protocol: protocol(config.protocol),
    lanes: lanePolicy(config.lanes),
    policy: policy(config.policy),
    mode: mode(config.mode),
  };
}

/** The options of a client as the native side reads them. */
export function nativeClientOptions({ protocol, ...options }: ClientOptions): string {
  return JSON.stringify({ ...options, speaksV2: protocol !== 1 });
}

/** A time in whole milliseconds, at most a day. */
export function time(name: string, value: number | undefined, otherwise: number, least: number): number {
  if (value === undefined) return otherwise;
  if (typeof value !== "number" || Number.isNaN(value) || value < least) {
    throw invalid(`${name} must be a number of milliseconds, at least ${least}`);
  }
  return Math.min(Math.ceil(value), TIME_MAX_MS);
}

/** How long a call waits for its service, in milliseconds; 0: not at all. */
export function serviceWait(value: boolean | number | undefined, otherwise: number): number {
  if (value === true) return DEFAULT_SERVICE_WAIT_MS;
  if (value === false) return 0;
  if (value !== undefined && typeof value !== "number") {
    throw invalid("waitForService must be true, false or a number of milliseconds");
  }
  return time("waitForService", value, otherwise, 0);
}

/** A number of whole microseconds; the native side knows the most that is of use. */
function spin(value: number | undefined): number {
  if (value === undefined) return 0;
  if (typeof value !== "number" || !(value >= 0)) throw invalid("laneSpinUs must be a number of microseconds");
  return Math.ceil(Math.min(value, Number.MAX_SAFE_INTEGER));
}

export function invalid(why: string): IPCError {
  return new IPCError(why, IPCErrorCode.INVALID_ARGUMENT);
}

function path(name: string, value: string | undefined): string {
  if (value === undefined) return DEFAULT_SOCKET_PATH;
  if (typeof value !== "string" || value === "") throw invalid(`${name} must be a string that is not empty`);
  return value;
}

function serializer(value: Serializer | undefined): Serializer {
  if (value === undefined || value === "json" || value === "msgpack") return value ?? "json";
  throw invalid(`serializer must be "json" or "msgpack", not ${JSON.stringify(value)}`);
}

function protocol(value: Protocol | undefined): Protocol {
  if (value === undefined || value === "auto" || value === 1) return value ?? "auto";
  throw invalid(`protocol must be "auto" or 1, not ${JSON.stringify(value)}`);
}

function lanePolicy(value: LanePolicy | undefined): LanePolicy {
  if (value === undefined || value === "off" || value === "auto" || value === "always") return value ?? "auto";
  throw invalid(`lanes must be "off", "auto" or "always", not ${JSON.stringify(value)}`);
}

function policy(value: PolicySource | undefined): PolicySource | undefined {
  if (value === undefined) return undefined;
  const entries = typeof value === "object" && value !== null ? Object.entries(value) : [];
  const [key, text] = entries[0] ?? [];
  if (entries.length === 1 && (key === "file" || key === "toml") && typeof text === "string") return value;
  throw invalid("policy must be { file: path } or { toml: text }");
}

function mode(value: number | undefined): number {
  if (value === undefined) return 0o600;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0o777) return value;
  throw invalid("mode must be permission bits, such as 0o660");
}

function flag(name: string, value: boolean | undefined, otherwise: boolean): boolean {
  if (value === undefined || typeof value === "boolean") return value ?? otherwise;
  throw invalid(`${name} must be true or false`);
}
