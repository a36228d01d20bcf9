import { AsyncLocalStorage } from "node:async_hooks";
import type { IPCContext } from "./types";

/** A request that a handler is working on. */
export interface Running {
  /** Whose request it is. */
  readonly owner: object;
  readonly context: IPCContext;
  readonly slot: number;
  readonly generation: number;
  readonly method: string;
  readonly requestId: string | undefined;
  /** False once it is answered: then the native side has forgotten its context. */
  inWork: boolean;
}

/** Which request the present code runs for, across promises, timers and events. */
export const running = new AsyncLocalStorage<Running>();

/**
 * The context of the call that the present code runs for; `undefined` outside of handlers, and in handlers of clients with
 * `contextTracking: false`.
 */
export function currentContext(): IPCContext | undefined {
  return running.getStore()?.context;
}
