import type { IPCError } from "./errors";

/** The message types of protocol v1 that programs exchange. */
export type MessageType = "CALL" | "RESPONSE" | "REGISTER" | "HEARTBEAT";

/** How a call ended. */
export type ResponseStatus = "success" | "error";

/** How messages and payloads are encoded. Programs of both kinds can call each other. */
export type Serializer = "json" | "msgpack";

/** Which versions of the protocol are spoken: the newest that both sides know, or version 1, as the old library does. */
export type Protocol = "auto" | 1;

/** Which pairs of services get a lane: none, those that call each other much, or all that call each other at all. */
export type LanePolicy = "off" | "auto" | "always";

/** Where a call comes from, how deep it is nested, and until when it makes sense. */
export interface IPCContext {
  /** One id for the whole chain of calls. */
  root: string;
  /** The services that the call went through: the first caller first, the present callee last. */
  chain: string[];
  /** How many services the chain has. The first caller alone is 1, its callee sees 2. */
  depth: number;
  /** When the caller stops waiting, in milliseconds since 1970. */
  deadline: number;
  /**
   * In a handler: aborts when nobody waits for the answer any more. Its `reason` is an {@link IPCError} whose code says why: `CANCELLED`
   * (the caller has given up, or somebody further up the chain), `TIMEOUT` (the deadline has passed), `CONNECTION_LOST` (the caller,
   * or the connection, is gone) or `SHUTTING_DOWN` (this client disconnects). It never aborts once the handler has answered.
   *
   * Every handler's context has it, other contexts do not. It is made when it is first read, and is neither enumerable nor copied with
   * the context: copies have the four fields above.
   *
   * ```ts
   * client.registerMethod("report", async ({ url }, { signal }) => (await fetch(url, { signal: signal! })).text());
   * ```
   */
  readonly signal?: AbortSignal;
  /**
   * In a handler: the service that made the call, by the name under which it is registered at the gateway. It is the gateway's word, also on
   * lanes, whatever the caller writes: it proves who calls, as `chain` does not, which a caller may write itself. Which user of the system may
   * register under a name is for the gateway's policy to say.
   *
   * `undefined` where nobody vouches for it: at gateways of the old library, and in contexts that are not a handler's. Like `signal` it is neither
   * enumerable nor copied with the context. It stays the same when the call has ended.
   *
   * ```ts
   * client.registerMethod("refund", ({ order }, { caller }) => {
   *   if (caller !== "billing") throw new IPCError(`${caller} may not refund`, IPCErrorCode.PERMISSION_DENIED);
   *   // …
   * });
   * ```
   */
  readonly caller?: string;
}

/** What CALL and RESPONSE have in common. */
export interface BaseMessage {
  type: MessageType;
  id: string;
  from: string;
  to: string;
}

/** A request to run a method. */
export interface CallMessage extends BaseMessage {
  type: "CALL";
  method: string;
  params: any;
  context: IPCContext;
}

/** The `error` of a response. */
export interface ErrorPayload {
  /** For people. */
  message: string;
  /** For programs. */
  code?: string;
  /** The callee's stack, if it sent one. */
  stack?: string;
}

/** How a call ended, and with what. */
export interface ResponseMessage extends BaseMessage {
  type: "RESPONSE";
  status: ResponseStatus;
  data?: any;
  error?: ErrorPayload;
  context: IPCContext;
}

/** A service introduces itself. */
export interface RegisterMessage {
  type: "REGISTER";
  serviceName: string;
  methods: string[];
  version?: string;
  metadata?: Record<string, unknown>;
}

/** A sign of life. */
export interface HeartbeatMessage {
  type: "HEARTBEAT";
  from: string;
  /** Milliseconds since 1970. */
  timestamp: number;
}

/** Any message that a program sends. */
export type IPCMessage = CallMessage | ResponseMessage | RegisterMessage | HeartbeatMessage;

/** A call that waits for its response. */
export interface PendingRequest {
  resolve: (value: unknown) => void;
  reject: (reason: unknown) => void;
  /** Milliseconds since 1970. */
  createdAt: number;
  timeoutId?: NodeJS.Timeout;
  originalMessage: CallMessage;
}

/**
 * What is known of a service's first connection. The connection itself belongs to the native gateway: there is no
 * `net.Socket` behind this, and nothing that can be written to or closed.
 */
export interface ServiceSocket {
  /** Process id by the peer's credentials, where the system tells it. */
  readonly pid?: number;
  /** User id by the peer's credentials. */
  readonly uid?: number;
  /** Group id by the peer's credentials. */
  readonly gid?: number;
  /** The encoding that the service registered with. */
  readonly encoding: Serializer;
  /** How many connections the service has. */
  readonly connections: number;
}

/** One connection of a service: who is at its other end is what the system tells, not what the program says of itself. */
export interface ServiceInstance {
  /** Process id, where the system tells it. */
  readonly pid?: number;
  /** The system's number of this process, which unlike a process id is never given again: the inode of its pidfd (Linux 6.9). */
  readonly pidfdId?: number;
  /** User id. */
  readonly uid?: number;
  /** Group id. */
  readonly gid?: number;
  readonly encoding: Serializer;
  /** Milliseconds since 1970. */
  readonly connectedAt: number;
}

/** A connected service, as the gateway knows it. */
export interface ServiceEntry {
  name: string;
  /** Of its first connection. */
  socket: ServiceSocket;
  /** All its connections. */
  instances: ServiceInstance[];
  methods: string[];
  /** Milliseconds since 1970. */
  connectedAt: number;
  /** When the last frame of any of its connections came; milliseconds since 1970. */
  lastHeartbeat: number;
  metadata: Record<string, unknown>;
  version?: string;
}

/** Who may do what at a gateway: a TOML file, which can be read again, or its text. The language is that of `bro gateway --policy`. */
export type PolicySource = { file: string } | { toml: string };

/** Options of a gateway. */
export interface IPCServerConfig {
  /** Path of the Unix socket. Default `/tmp/bro-gateway.sock`. */
  socketPath: string;
  /** How often services must give a sign of life, in milliseconds; silent for three of these, they are dropped. Default 30000. */
  heartbeatInterval?: number;
  /** Time for calls that bring no deadline of their own, in milliseconds. Default 30000. */
  timeout?: number;
  /** Print every routed call. Default false. */
  debug?: boolean;
  /** Kept for the contract: the gateway speaks both encodings at once, to each peer its own. Default `json`. */
  serializer?: Serializer;
  /** 1 makes it speak version 1 with everybody: nothing is cancelled. Default `auto`. */
  protocol?: Protocol;
  /**
   * Which pairs of services are offered lanes, ways between two processes that do not lead through the gateway. While somebody listens to
   * `call-routed`, `response-routed` or `log`, or with `debug`, there are none. Default `auto`.
   */
  lanes?: LanePolicy;
  /**
   * Who may own which names, call which methods, and watch. Without it, programs of the gateway's own user and of root may do everything, and
   * others nothing. Programs of other users also need a `mode` that lets them connect.
   */
  policy?: PolicySource;
  /** Permission bits of the socket file: who may write to it may connect. Default `0o600`, this user only. */
  mode?: number;
}

/** Options of a client. */
export interface IPCClientConfig {
  /** Unique name of this service. */
  serviceName: string;
  /** Path of the gateway's socket. Default `/tmp/bro-gateway.sock`. */
  gatewayPath?: string;
  /** Reconnect by itself when the connection is lost. Default true. */
  autoReconnect?: boolean;
  /** Delay before the first attempt to reconnect, in milliseconds; doubles with jitter up to 30000. Default 5000. */
  reconnectDelay?: number;
  /** Time for a call, in milliseconds. Default 30000. */
  timeout?: number;
  /** Interval between heartbeats, in milliseconds. Default 30000. */
  heartbeatInterval?: number;
  /** Print what the client does. Default false. */
  debug?: boolean;
  /** Encoding of this client's messages. Default `json`. */
  serializer?: Serializer;
  /** Connections to the gateway. Default 1. */
  poolSize?: number;
  /** How long `connect()` waits for a gateway to appear, in milliseconds; 0 fails at once. Default 0. */
  waitForGateway?: number;
  /**
   * How long a call whose service is not there waits for it to appear, in milliseconds; `true` is 10000. Default `false`: it rejects at once.
   * The wait is a part of the call's `timeout`, and covers a gateway that is not there yet, or not there again, once `connect()` was called. So programs
   * can be started in any order. Calls that waited are sent in the order in which they were made; none is sent again that may have been carried
   * out. Notifications do not wait.
   */
  waitForService?: boolean | number;
  /**
   * Let the calls that a handler makes continue the chain of the call that it answers, by `AsyncLocalStorage`. Default true.
   * Without it handlers are somewhat faster, and pass their `context` to `call` themselves.
   */
  contextTracking?: boolean;
  /**
   * Take the lanes that the gateway offers: memory shared with another client, on which calls need no gateway. Default true. Nothing else
   * changes, but calls on a lane go on while the gateway is away.
   */
  lanes?: boolean;
  /**
   * Microseconds that the event loop may look at its lanes before it sleeps, at most 1000. Default 0. An answer that comes in this time comes
   * several times sooner; for that the process takes processor time while it waits. Worth it only where processors are idle: where others
   * want them it mostly stops by itself.
   */
  laneSpinUs?: number;
  /** Version of this service, shown by the gateway. Default `1.0.0`. */
  version?: string;
  /** Anything about this service that others may want to know, shown by the gateway. Default `{}`. */
  metadata?: Record<string, unknown>;
  /** 1 makes it speak version 1, as the old library does: then it cannot cancel calls, nor learn that others do. Default `auto`. */
  protocol?: Protocol;
}

/** How one call differs from others. */
export interface CallOptions {
  /** Time for this call, in milliseconds. Default: the client's `timeout`. */
  timeout?: number;
  /**
   * How long this call waits for its service to appear, in milliseconds, or whether it does. Default: the client's `waitForService`. It rejects with
   * `SERVICE_NOT_FOUND` after that, or with `NOT_CONNECTED` when there is no gateway either.
   */
  waitForService?: boolean | number;
  /**
   * Gives the call up: its promise is rejected with `CANCELLED`, the callee's `context.signal` aborts, and so on with every call that
   * it has made for this one. What the callee answers is dropped. A notification is only given up before it is sent.
   */
  signal?: AbortSignal | undefined;
  /** The chain that this call continues, instead of that of the handler that makes it. */
  context?: IPCContext;
}

/** How a client leaves. */
export interface DisconnectOptions {
  /**
   * First take no more calls, and finish those in work: as long as {@link IPCClient.drain} does, or this many milliseconds.
   * Default false.
   */
  drain?: boolean | number;
}

/** How a client waits for its handlers. */
export interface DrainOptions {
  /** Milliseconds to wait, at most and by default 30000. */
  timeout?: number;
}

/** How a client is doing, for monitoring. Totals are those since it was made. */
export interface ClientStats {
  /** Registered connections to the gateway. */
  connections: number;
  /** Those among them that speak version 2 of the protocol. */
  connectionsV2: number;
  /** Open lanes to other services. */
  lanes: number;
  /** Calls that wait for their answer, or for their service. */
  pendingCalls: number;
  /** Those among them that wait for their service to appear. */
  waitingCalls: number;
  /** Calls of others that handlers are working on. */
  requestsInWork: number;
  /** Bytes that wait to be written, over all connections. */
  queuedBytes: number;
  /** Total of calls made. */
  calls: number;
  /** How often a call began to wait for its service. */
  waits: number;
  /** Total of notifications sent. */
  notifications: number;
  /** Total of answers that came after their call had ended. */
  lateAnswers: number;
  /** Total of calls of others, and notifications, that handlers were given. */
  requests: number;
  /** Total of those that were refused without a handler. */
  requestsRefused: number;
  /** Total of lanes that were opened. */
  lanesOpened: number;
  /** Total of lanes that were lost. */
  lanesLost: number;
  /** Total of registrations that the gateway acknowledged, one for each connection and each change of methods. */
  registrations: number;
  /** Total of connections that were lost. */
  connectionsLost: number;
}

/** What a gateway keeps for one user of the system, of all that its programs share with those of others. */
export interface UserStats {
  /** User id by the peers' credentials, where the system tells it. */
  uid?: number;
  /** Bytes of the gateway's memory: what is queued, unfinished frames, calls, registrations, tables. */
  memoryBytes: number;
  /** Open connections, registered or not. */
  connections: number;
  /** Calls in flight that its programs have made. */
  inFlight: number;
  /** How many of `memoryBytes` are what its services say of themselves. */
  registryBytes: number;
  /** Lanes between its services. */
  lanes: number;
  /** Bytes of shared memory that these lanes take when they are used to the full; not in `memoryBytes`. */
  laneBytes: number;
}

/** How a gateway is doing, for monitoring. */
export interface ServerStats {
  /** Milliseconds since it started. */
  uptimeMs: number;
  /** Connections, registered or not. */
  peers: number;
  /** Calls in flight through it. */
  inFlight: number;
  /** Lanes between two services. */
  lanes: number;
  /** Bytes of shared memory that these lanes take when they are used to the full; it is the services', not the gateway's. */
  laneBytes: number;
  /** Bytes that peers have not taken yet. */
  queuedBytes: number;
  /** Bytes that are kept for peers in whatever form. New work is refused with `RESOURCE_EXHAUSTED` before there are too many. */
  memoryBytes: number;
  /** How many bytes may be kept for peers at most. */
  memoryMax: number;
  /** What each user has taken, those with most memory first. */
  users: UserStats[];
  /**
   * Totals since it started, by name: `callsRouted`, `callsRefused`, `callsTimedOut`, `callsCancelled`, `responsesDropped`,
   * `notificationsRouted`, `notificationsDropped`, `laneCalls` and others; those of `bro status`.
   */
  counters: Record<string, number>;
}

/** A function that answers calls. What it returns, or what its promise resolves to, goes to the caller. */
export type MethodHandler = (params: any, context: IPCContext) => Promise<any> | any;

/** Handlers by method name. */
export type MethodRegistry = Map<string, MethodHandler>;

/** A method of this client was called by another service, and has finished. */
export interface MethodExecuted {
  method: string;
  requestId: string;
  success: boolean;
  /** Why not, when `success` is false. */
  error?: string;
}

/** A call of this client has ended. */
export interface ResponseReceived {
  requestId: string;
  success: boolean;
  /** Why not, when `success` is false. */
  error?: string;
}

/** The gateway sent an error. When it is about a call, that call is rejected as well. */
export interface GatewayErrorEvent {
  message: string;
  code: string;
  stack?: string;
}

/** One line of a client's log. */
export interface ClientLogEvent {
  serviceName: string;
  message: string;
  data?: any;
  /** Milliseconds since 1970. */
  timestamp: number;
}

/** One line of a server's log. */
export interface ServerLogEvent {
  message: string;
  data?: any;
  /** Milliseconds since 1970. */
  timestamp: number;
}

/** What a client tells: the names of its events, and what listeners are given. */
export interface IPCClientEvents {
  /** Calls can be made: after `connect()`, and after a lost connection was made again. */
  connected: () => void;
  /** The connection is gone, by `disconnect()` or otherwise. */
  disconnected: () => void;
  /** The gateway has acknowledged the registration. */
  registered: () => void;
  "method-executed": (payload: MethodExecuted) => void;
  "response-received": (payload: ResponseReceived) => void;
  /**
   * Something went wrong with the connection. Also what a failed `connect()` is rejected with, and why a connection is made again.
   * Without a listener it is logged and nothing more: trouble in the background does not end the process.
   */
  error: (error: Error) => void;
  "gateway-error": (payload: GatewayErrorEvent) => void;
  /** The gateway is about to stop: it finishes calls in flight, and answers new ones `SHUTTING_DOWN`. Gateways of version 1 do not tell. */
  "gateway-draining": () => void;
  /** Every message of the log, whether `debug` is on or not. */
  log: (payload: ClientLogEvent) => void;
}

/** What a server tells of a service that has registered, or has changed its methods. */
export interface ServiceRegistered {
  serviceName: string;
  methods: string[];
  version?: string;
  metadata?: Record<string, unknown>;
}

/** What a server tells of a call that it passed on. */
export interface CallRouted {
  from: string;
  to: string;
  method: string;
  requestId: string;
  context: IPCContext;
}

/** What a server tells of the end of a call. */
export interface ResponseRouted {
  from: string;
  to: string;
  status: ResponseStatus;
  requestId: string;
}

/** What a server tells of a new connection. */
export interface ConnectionEvent {
  /** Tells connections apart. */
  id: string;
  /** Process id by the peer's credentials, where the system tells it. */
  pid?: number;
}

/** What a server tells: the names of its events, and what listeners are given. */
export interface IPCServerEvents {
  started: (payload: { socketPath: string }) => void;
  stopped: () => void;
  /** A program has connected; it has not registered yet. */
  connection: (payload: ConnectionEvent) => void;
  "service-registered": (payload: ServiceRegistered) => void;
  "service-disconnected": (payload: { serviceName: string }) => void;
  "call-routed": (payload: CallRouted) => void;
  "response-routed": (payload: ResponseRouted) => void;
  /** The listening socket, or its file, is in trouble; the server goes on. */
  "socket-error": (error: Error) => void;
  /** The server cannot go on, and stops. Without a listener this ends the process, as `error` events of Node do. */
  error: (error: Error) => void;
  /** Every message of the log, whether `debug` is on or not. */
  log: (payload: ServerLogEvent) => void;
}
