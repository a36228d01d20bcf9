/**
 * Services that call each other through a gateway, over a Unix socket.
 *
 * {@link IPCClient} is a service; {@link IPCServer} is the gateway, which `npx bro gateway` runs as well.
 *
 * @packageDocumentation
 */
export { IPCClient } from "./client";
export { currentContext } from "./context";
export { IPCError, IPCErrorCode } from "./errors";
export { IPCUtils } from "./IPCUtils";
export { IPCServer } from "./server";
export type { Notifier, Service } from "./service";
export type * from "./types";
