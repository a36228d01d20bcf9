// A service that calls and is called, until SIGTERM. Arguments: path of the socket, name, more options as JSON.
import { readdirSync } from "node:fs";
import { IPCClient } from "ipc-bro";

const [gatewayPath, serviceName, more = "{}"] = process.argv.slice(2);
const options = { serviceName, gatewayPath, reconnectDelay: 20, heartbeatInterval: 500, ...JSON.parse(more) };
const client = new IPCClient(options);
client.registerMethod("echo", (value) => value);
client.registerMethod("chain", (_, { root, chain, depth }) => ({ root, chain, depth }));
client.registerMethod("who", (_, { caller }) => caller);
client.registerMethod("forward", ({ service, method, value }) => client.call(service, method, value));
client.registerMethod("descriptors", () => readdirSync("/proc/self/fd").length);
client.registerMethod("never", () => {
  console.log("working");
  return new Promise(() => {});
});
client.registerMethod("burst", async ({ service, count, inFlight }) => {
  let left = count;
  const run = async () => {
    while (left-- > 0) {
      const sent = { at: left, text: "x".repeat(left % 50) };
      const { at } = await client.call(service, "echo", sent);
      if (at !== sent.at) throw new Error("not my answer");
    }
  };
  await Promise.all(Array.from({ length: inFlight }, run));
  return count;
});
client.on("disconnected", () => console.log("disconnected"));
client.on("connected", () => console.log("connected"));
await client.connect();
process.once("SIGTERM", async () => {
  await client.disconnect();
  console.log("left");
});
console.log("ready");
