// One call, with everything in this process, and nothing printed by the program itself. Arguments: path, debug.
import { IPCClient, IPCServer } from "ipc-bro";

const [socketPath, debug] = [process.argv[2], process.argv[3] === "true"];
const server = new IPCServer({ socketPath, ...(debug && { debug }) });
await server.start();
const callee = new IPCClient({ serviceName: "callee", gatewayPath: socketPath, ...(debug && { debug }) });
callee.registerMethod("work", async () => "done");
await callee.connect();
const caller = new IPCClient({ serviceName: "caller", gatewayPath: socketPath, ...(debug && { debug }) });
await caller.connect();
await caller.call("callee", "work", {});
await caller.disconnect();
await callee.disconnect();
await server.stop();
