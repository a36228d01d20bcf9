/** The message types of protocol v1 that programs exchange. */
export type MessageType = "CALL" | "RESPONSE" | "REGISTER" | "HEARTBEAT";

/** How a call ended. */
export type ResponseStatus = "success" | "error";

/** How messages and payloads are encoded. Programs of both kinds can call each other. */
export type Serializer = "json" | "msgpack";

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
  // biome-ignore lint/suspicious/noExplicitAny: payloads are the user's own; the documented API says any.
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
  // biome-ignore lint/suspicious/noExplicitAny: see CallMessage.
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
  /** The encoding that the service registered with. */
  readonly encoding: Serializer;
  /** How many connections the service has. */
  readonly connections: number;
}

/** A connected service, as the gateway knows it. */
export interface ServiceEntry {
  name: string;
  socket: ServiceSocket;
  methods: string[];
  /** Milliseconds since 1970. */
  connectedAt: number;
  /** When the last frame of any of its connections came; milliseconds since 1970. */
  lastHeartbeat: number;
  metadata: Record<string, unknown>;
  version?: string;
}

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
}

/** Options of a client. */
export interface IPCClientConfig {
  /** Unique name of this service. */
  serviceName: string;
  /** Path of the gateway's socket. Default `/tmp/bro-gateway.sock`. */
  gatewayPath: string;
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
}

/** A function that answers calls. What it returns, or what its promise resolves to, goes to the caller. */
// biome-ignore lint/suspicious/noExplicitAny: the documented signature.
export type MethodHandler = (params: any, context: IPCContext) => Promise<any> | any;

/** Handlers by method name. */
export type MethodRegistry = Map<string, MethodHandler>;
