// A service with one method.
import { IPCClient } from "ipc-bro";

const client = new IPCClient({
  serviceName: "user-service",
  gatewayPath: process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock",
});

const users = new Map([
  ["123", { id: "123", name: "Ada Lovelace", email: "ada@example.org" }],
  ["124", { id: "124", name: "Alan Turing", email: "alan@example.org" }],
]);

client.registerMethod("getUserById", async ({ userId }, { chain }) => {
  // The last of the chain is this service; the one before it is who calls.
  console.log(`${chain.at(-2)} asks for user ${userId}`);
  return users.get(userId) ?? null;
});

await client.connect();
console.log("ready");

process.once("SIGTERM", () => client.disconnect());
