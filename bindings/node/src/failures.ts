import { messageOf } from "./codec";
import { IPCError, IPCErrorCode } from "./errors";
import type { NativeFailure } from "./native";
import type { PendingCall } from "./pending";

/** What a stack that is sent to a caller may have at most, in characters. */
const STACK_LENGTH_MAX = 8192;

/** The error that the native side tells of. */
export function errorOf({ message, code, stack }: NativeFailure): IPCError {
  const details = stack === undefined ? undefined : { remoteStack: stack };
  return new IPCError(message, code ?? IPCErrorCode.CONNECTION_FAILED, details);
}

export function notConnected({ service, method }: PendingCall): IPCError {
  return new IPCError("Not connected to Gateway", IPCErrorCode.NOT_CONNECTED, { service, method });
}

/** The error of a call that was given up. */
export function cancelled({ service, method }: PendingCall, { reason }: AbortSignal): IPCError {
  const why = `the call of ${service}.${method} was given up: ${messageOf(reason)}`;
  const error = new IPCError(why, IPCErrorCode.CANCELLED, { service, method });
  error.cause = reason;
  return error;
}

/** The error of a call that is made for a request which was given up. */
export function pointless({ service, method }: PendingCall, reason: IPCError): IPCError {
  const isLate = reason.code === IPCErrorCode.TIMEOUT;
  const why = `${service}.${method} was not called, since nobody waits for the answer of ${reason.message}`;
  const error = new IPCError(why, isLate ? IPCErrorCode.DEADLINE_EXCEEDED : IPCErrorCode.CANCELLED, {
    service,
    method,
  });
  error.cause = reason;
  return error;
}

export function stillAtWork(): IPCError {
  return new IPCError("calls are still being worked on", IPCErrorCode.TIMEOUT);
}

export function codeOf(thrown: unknown): string {
  const code = textIn(thrown, "code");
  return code === undefined || code === "" ? IPCErrorCode.EXECUTION_FAILED : code;
}

export function stackOf(thrown: unknown): string | undefined {
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
