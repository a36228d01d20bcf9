/** Why a call or an operation failed, as programs compare it. Handlers may use codes of their own beside these. */
export enum IPCErrorCode {
  /** The gateway could not be reached. */
  CONNECTION_FAILED = "CONNECTION_FAILED",
  /** The connection that the call depended on was lost; whether the call was carried out is unknown. */
  CONNECTION_LOST = "CONNECTION_LOST",
  /** The client is not connected. */
  NOT_CONNECTED = "NOT_CONNECTED",
  /** No live instance of that service is registered. */
  SERVICE_NOT_FOUND = "SERVICE_NOT_FOUND",
  /** The service does not have that method. */
  METHOD_NOT_FOUND = "METHOD_NOT_FOUND",
  /** The handler failed without a code of its own. */
  EXECUTION_FAILED = "EXECUTION_FAILED",
  /** No answer came in time. */
  TIMEOUT = "TIMEOUT",
  /** The deadline had already passed when the call was made or routed. */
  DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED",
  /** A message broke the protocol. */
  INVALID_MESSAGE = "INVALID_MESSAGE",
  /** A value could not be encoded. */
  SERIALIZATION_FAILED = "SERIALIZATION_FAILED",
  /** A value could not be decoded. */
  DESERIALIZATION_FAILED = "DESERIALIZATION_FAILED",
  /** The call context is not valid. */
  INVALID_CONTEXT = "INVALID_CONTEXT",
  /** The call chain is too deep. */
  MAX_DEPTH_EXCEEDED = "MAX_DEPTH_EXCEEDED",
  /** A defect in ipc-bro itself. */
  INTERNAL_ERROR = "INTERNAL_ERROR",
  /** Another live connection holds that service name. */
  DUPLICATE_SERVICE = "DUPLICATE_SERVICE",
  /** A call came before REGISTER. */
  NOT_REGISTERED = "NOT_REGISTERED",
  /** A frame, name or queue is larger than its limit. */
  PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE",
  /** The callee has too much unread already. */
  OVERLOADED = "OVERLOADED",
  /** A count is at its limit. */
  RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED",
  /** The gateway or the service is shutting down. */
  SHUTTING_DOWN = "SHUTTING_DOWN",
  /** The caller gave up. */
  CANCELLED = "CANCELLED",
  /** The name or the method is not open to this peer. */
  PERMISSION_DENIED = "PERMISSION_DENIED",
  /** An argument or an option is not acceptable. */
  INVALID_ARGUMENT = "INVALID_ARGUMENT",
}

/** Every failure of this package, on either side of a call. */
export class IPCError extends Error {
  /** For programs: an {@link IPCErrorCode}, or a code of the callee's own. */
  readonly code: string;
  /** What else is known: for a failed call `{ service, method, remoteStack }`, as far as they apply. */
  readonly details?: any;

  constructor(message: string, code: string, details?: any) {
    super(message);
    this.name = "IPCError";
    this.code = code;
    if (details !== undefined) this.details = details;
  }
}
