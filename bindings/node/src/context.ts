import { AsyncLocalStorage } from "node:async_hooks";
import { setMaxListeners } from "node:events";
import { IPCError, IPCErrorCode } from "./errors";
import { attach, Sight } from "./signal";
import type { IPCContext } from "./types";

/** A request that a handler is working on. */
export class Running {
  /** False once it has ended: then the native side has forgotten its context. */
  inWork = true;
  /** Why nobody waits for its answer any more. */
  givenUp: IPCError | undefined = undefined;
  /** What its context shows beside the four fields. */
  shown: Sight = Sight.Fields;
  /** Made when somebody asks for the signal. */
  private controller: AbortController | undefined = undefined;

  constructor(
    /** Whose request it is. */
    readonly owner: object,
    readonly context: IPCContext,
    readonly slot: number,
    readonly generation: number,
    readonly method: string,
    readonly requestId: string | undefined,
    readonly wantsAnswer: boolean,
    /** Who calls, by the gateway's word. */
    readonly caller: string | undefined,
  ) {}

  /** Aborts when the request is given up; not when it is answered. */
  get signal(): AbortSignal {
    if (this.controller === undefined) {
      this.controller = new AbortController();
      // A handler may make any number of calls that end with it.
      setMaxListeners(0, this.controller.signal);
      if (this.givenUp !== undefined) this.controller.abort(this.givenUp);
    }
    return this.controller.signal;
  }

  /** Nobody waits for the answer any more, for the reason that the code says. */
  giveUp(code: string): void {
    this.inWork = false;
    this.givenUp = new IPCError(`${this.method}: ${WHY[code] ?? "nobody waits for the answer any more"}`, code);
    this.controller?.abort(this.givenUp);
  }
}

const WHY: Record<string, string> = {
  [IPCErrorCode.CANCELLED]: "the caller has given the call up",
  [IPCErrorCode.TIMEOUT]: "the deadline of the call has passed",
  [IPCErrorCode.CONNECTION_LOST]: "the caller, or the connection to it, is gone",
  [IPCErrorCode.SHUTTING_DOWN]: "this client disconnects",
};

/** Which request the present code runs for, across promises, timers and events. */
export const running = new AsyncLocalStorage<Running>();

/**
 * The context of the call that the present code runs for, with its `signal` and its `caller`; `undefined` outside of handlers, and in
 * handlers of clients with `contextTracking: false`.
 */
export function currentContext(): IPCContext | undefined {
  const request = running.getStore();
  if (request === undefined) return undefined;
  attach(request.context, request, Sight.All);
  return request.context;
}

/** The text of a context; of what it holds beside the four fields nothing. */
export function textOf({ root, chain, depth, deadline }: IPCContext): string {
  return JSON.stringify({ root, chain, depth, deadline: Number.isFinite(deadline) ? Math.floor(deadline) : deadline });
}
