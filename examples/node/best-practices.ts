// Seven habits, each in a few lines. Brings its own gateway.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IPCClient, type IPCError, IPCErrorCode, IPCServer } from "ipc-bro";

const folder = await mkdtemp(join(tmpdir(), "bro-practices-"));
const gatewayPath = join(folder, "gateway.sock");

// 3. Expect that the gateway may not be there, and say so.
try {
  await new IPCClient({ serviceName: "too-early", gatewayPath, autoReconnect: false }).connect();
} catch (error) {
  console.log(`3. ${(error as IPCError).code}: is the gateway running?`);
}

const server = new IPCServer({ socketPath: gatewayPath });
await server.start();

// 2. Register methods before connecting: whoever sees the service sees all it can do. (Later ones are advertised at once.)
const users = new IPCClient({ serviceName: "user-service", gatewayPath });
users.registerMethod("getUser", async ({ id }) => ({ id, name: "Ada" }));
users.registerMethod("sleep", ({ ms }) => new Promise((resolve) => setTimeout(resolve, ms)));
await users.connect();
console.log(`2. ${server.getService("user-service")?.methods.join(", ")}`);

// 1. One name, one service: a second one is refused at once, whatever it is.
const twin = new IPCClient({ serviceName: "user-service", gatewayPath });
await twin.connect().catch((error: IPCError) => console.log(`1. ${error.code}`));
await twin.disconnect();

// 6. Debug output is for development.
const client = new IPCClient({
  serviceName: "order-service",
  gatewayPath,
  debug: process.env.NODE_ENV === "development",
});
await client.connect();
console.log("6. quiet");

// 5. Say what a call gives, and the compiler knows.
interface User {
  id: string;
  name: string;
}
const user = await client.call<User>("user-service", "getUser", { id: "123" });
console.log(`5. ${user.name.toUpperCase()}`);

// 7. Give each call the time that it deserves: a default for the client, exceptions for single calls.
const slow = client.call("user-service", "sleep", { ms: 1000 }, { timeout: 50 });
await slow.catch((error: IPCError) => {
  if (error.code === IPCErrorCode.TIMEOUT) console.log("7. too slow for 50 ms");
});

// 4. Leave in order: callers are told, the name is free, the process ends by itself.
async function leave(): Promise<void> {
  await client.disconnect();
  await users.disconnect();
  await server.stop();
  await rm(folder, { recursive: true });
}
process.once("SIGTERM", leave);
await leave();
console.log("4. left in order");
