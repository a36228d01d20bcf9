import { decodeValue, detectSerializer, encodeValue } from "./codec";
import { IPCError, IPCErrorCode } from "./errors";
import type { CallMessage, IPCContext, IPCMessage, ResponseMessage, Serializer } from "./types";

/** Bytes in front of every message: the length of its body. */
const PREFIX_BYTES = 4;
/** Largest body, as the gateway accepts it. */
const FRAME_BYTES_MAX = 32 * 1024 * 1024;
const DEFAULT_TIMEOUT_MS = 30_000;
const DEPTH_MAX = 100;

let defaultSerializer: Serializer = "json";

/**
 * The building blocks of protocol v1, for programs that look into messages or speak the protocol by themselves.
 * `IPCClient` and `IPCServer` need none of them.
 */
export class IPCUtils {
  /** Chooses the encoding that {@link IPCUtils.serialize} uses when it is not told. */
  static setSerializer(serializer: Serializer): void {
    defaultSerializer = serializer;
  }

  /** Encodes a message with its length in front. Throws `SERIALIZATION_FAILED` or `PAYLOAD_TOO_LARGE`. */
  static serialize(message: IPCMessage | any, serializer: Serializer = defaultSerializer): Buffer {
    const body = encodeValue(message, serializer);
    if (body.length > FRAME_BYTES_MAX) {
      throw new IPCError(
        `the message has ${body.length} bytes, at most ${FRAME_BYTES_MAX} can be sent`,
        IPCErrorCode.PAYLOAD_TOO_LARGE,
      );
    }
    const frame = Buffer.allocUnsafe(PREFIX_BYTES + body.length);
    frame.writeUInt32BE(body.length, 0);
    body.copy(frame, PREFIX_BYTES);
    return frame;
  }

  /** Decodes one message with its length in front, of either encoding. Throws `DESERIALIZATION_FAILED`. */
  static deserialize(buffer: Buffer): any {
    if (!IPCUtils.hasCompleteMessage(buffer)) {
      throw new IPCError("the buffer ends in the middle of a message", IPCErrorCode.DESERIALIZATION_FAILED);
    }
    const body = buffer.subarray(PREFIX_BYTES, PREFIX_BYTES + IPCUtils.readMessageLength(buffer));
    return decodeValue(body, detectSerializer(body));
  }

  /** The body length of the message that begins the buffer, in bytes. Throws `DESERIALIZATION_FAILED` below four bytes. */
  static readMessageLength(buffer: Buffer): number {
    if (buffer.length < PREFIX_BYTES) {
      throw new IPCError("a message begins with four bytes of length", IPCErrorCode.DESERIALIZATION_FAILED);
    }
    return buffer.readUInt32BE(0);
  }

  /** Whether the buffer holds a whole message. */
  static hasCompleteMessage(buffer: Buffer): boolean {
    return buffer.length >= PREFIX_BYTES && buffer.length >= PREFIX_BYTES + IPCUtils.readMessageLength(buffer);
  }

  /**
   * Takes all whole messages from the front of a buffer. Keep `remaining` and put what arrives next behind it.
   * Throws `PAYLOAD_TOO_LARGE` when a length is announced that no gateway accepts.
   */
  static splitMessages(buffer: Buffer): { messages: any[]; remaining: Buffer } {
    const messages: unknown[] = [];
    let rest = buffer;
    while (rest.length >= PREFIX_BYTES) {
      const bytes = IPCUtils.readMessageLength(rest);
      if (bytes > FRAME_BYTES_MAX) {
        throw new IPCError(
          `a message of ${bytes} bytes is announced, at most ${FRAME_BYTES_MAX} are accepted`,
          IPCErrorCode.PAYLOAD_TOO_LARGE,
        );
      }
      if (rest.length < PREFIX_BYTES + bytes) break;
      messages.push(IPCUtils.deserialize(rest));
      rest = rest.subarray(PREFIX_BYTES + bytes);
    }
    return { messages, remaining: rest };
  }

  /** An id of the form `<prefix>-<milliseconds>-<6 characters>`. */
  static generateId(prefix = "req"): string {
    const tail = Math.floor(Math.random() * 36 ** 6)
      .toString(36)
      .padStart(6, "0");
    return `${prefix}-${Date.now()}-${tail}`;
  }

  /** The id that a whole chain of calls shares. */
  static generateRootId(): string {
    return IPCUtils.generateId("root");
  }

  /** The context of a chain that begins with `serviceName`. */
  static createContext(serviceName: string, timeoutMs: number = DEFAULT_TIMEOUT_MS): IPCContext {
    return {
      root: IPCUtils.generateRootId(),
      chain: [serviceName],
      depth: 1,
      deadline: IPCUtils.calculateDeadline(timeoutMs),
    };
  }

  /** The context of a call from here to `serviceName`: one step deeper, same root, same deadline. */
  static extendContext(context: IPCContext, serviceName: string): IPCContext {
    return { ...context, chain: [...context.chain, serviceName], depth: context.depth + 1 };
  }

  /** Whether this is a context; throws `INVALID_CONTEXT` with the reason when it is not. */
  static validateContext(context: any): context is IPCContext {
    const invalid = (why: string): never => {
      throw new IPCError(why, IPCErrorCode.INVALID_CONTEXT);
    };
    if (typeof context !== "object" || context === null) invalid("a context is an object");
    if (typeof context.root !== "string" || context.root === "") invalid("context.root must be a string");
    if (!Array.isArray(context.chain) || context.chain.some((name: unknown) => typeof name !== "string")) {
      invalid("context.chain must be an array of service names");
    }
    if (!Number.isInteger(context.depth) || context.depth < 0) invalid("context.depth must be a whole number");
    if (!Number.isFinite(context.deadline)) invalid("context.deadline must be milliseconds since 1970");
    return true;
  }

  /** Whether the deadline has passed. */
  static isDeadlineExceeded(context: IPCContext): boolean {
    return Date.now() > context.deadline;
  }

  /** Milliseconds until the deadline; 0 when it has passed. */
  static getRemainingTime(context: IPCContext): number {
    return Math.max(0, context.deadline - Date.now());
  }

  /** The moment `durationMs` from now, in milliseconds since 1970. */
  static calculateDeadline(durationMs: number): number {
    return Date.now() + durationMs;
  }

  /** A CALL message with a new id. */
  static createCallMessage(from: string, to: string, method: string, params: any, context: IPCContext): CallMessage {
    return { type: "CALL", id: IPCUtils.generateId(), from, to, method, params, context };
  }

  /** The RESPONSE that ends a call well. */
  static createSuccessResponse(originalCall: CallMessage, data: any): ResponseMessage {
    return { ...answering(originalCall), status: "success", data };
  }

  /** The RESPONSE that ends a call with an error; a code and a stack are taken over where there are any. */
  static createErrorResponse(originalCall: CallMessage, error: Error | string): ResponseMessage {
    if (typeof error === "string") return { ...answering(originalCall), status: "error", error: { message: error } };
    const code = (error as { code?: unknown }).code;
    const payload = {
      message: error.message,
      ...(typeof code === "string" && { code }),
      ...(error.stack !== undefined && { stack: error.stack }),
    };
    return { ...answering(originalCall), status: "error", error: payload };
  }

  /** Whether this is a message; throws `INVALID_MESSAGE` with the reason when it is not. */
  static validateMessage(message: any): message is IPCMessage {
    if (typeof message !== "object" || message === null) {
      throw new IPCError("a message is an object", IPCErrorCode.INVALID_MESSAGE);
    }
    const needed = REQUIRED_STRINGS[message.type as keyof typeof REQUIRED_STRINGS];
    if (needed === undefined) {
      throw new IPCError(`unknown message type ${String(message.type)}`, IPCErrorCode.INVALID_MESSAGE);
    }
    for (const field of needed) {
      if (typeof message[field] !== "string" || message[field] === "") {
        throw new IPCError(`${message.type} needs ${field}, a string`, IPCErrorCode.INVALID_MESSAGE);
      }
    }
    return true;
  }

  /** Whether the chain is deeper than allowed. */
  static isMaxDepthExceeded(context: IPCContext, maxDepth: number = DEPTH_MAX): boolean {
    return context.depth > maxDepth;
  }

  /** A message in one line; payloads longer than `maxLength` characters are cut. */
  static formatMessageForLog(message: any, maxLength = 100): string {
    const cut: Record<string, unknown> = { ...message };
    for (const field of ["params", "data"]) {
      if (cut[field] === undefined) continue;
      const text = JSON.stringify(cut[field], stringifyAnything()) ?? String(cut[field]);
      if (text.length > maxLength) cut[field] = `${text.slice(0, maxLength)}...`;
    }
    return JSON.stringify(cut, stringifyAnything());
  }

  /** A context in one line. */
  static formatContext(context: IPCContext): string {
    const left = IPCUtils.getRemainingTime(context);
    return `[${context.root}] ${context.chain.join(" -> ")} (depth ${context.depth}, ${left} ms left)`;
  }

  /** Exponential backoff in milliseconds: `baseDelay * 2 ** attempt`, at most `maxDelay`. `attempt` counts from 0. */
  static calculateBackoff(attempt: number, baseDelay = 1000, maxDelay = 30_000): number {
    return Math.min(baseDelay * 2 ** Math.max(0, attempt), maxDelay);
  }

  /** Resolves after so many milliseconds. */
  static sleep(ms: number): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, ms));
  }

  /** Rejects with `TIMEOUT` after so many milliseconds. */
  static createTimeoutPromise(ms: number, message = `timed out after ${ms} ms`): Promise<never> {
    return new Promise((_, reject) => {
      setTimeout(() => reject(new IPCError(message, IPCErrorCode.TIMEOUT)), ms);
    });
  }
}

const REQUIRED_STRINGS = {
  CALL: ["id", "from", "to", "method"],
  RESPONSE: ["id", "from", "to", "status"],
  REGISTER: ["serviceName"],
  REGISTER_ACK: [],
  HEARTBEAT: ["from"],
  ERROR: [],
} as const;

function answering(call: CallMessage) {
  return { type: "RESPONSE" as const, id: call.id, from: call.to, to: call.from, context: call.context };
}

/** A JSON replacer that never throws: BigInt as digits, cycles named. */
function stringifyAnything(): (key: string, value: unknown) => unknown {
  const above: unknown[] = [];
  return function (this: unknown, _key, value) {
    if (typeof value === "bigint") return value.toString();
    if (typeof value !== "object" || value === null) return value;
    while (above.length > 0 && above[above.length - 1] !== this) above.pop();
    if (above.includes(value)) return "[circular]";
    above.push(value);
    return value;
  };
}
