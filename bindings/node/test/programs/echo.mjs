// A service "echo" until SIGTERM. Arguments: path of the socket, name.
import { IPCClient } from "ipc-bro";

const [gatewayPath, serviceName = "echo"] = process.argv.slice(2);
const client = new IPCClient({ serviceName, gatewayPath, reconnectDelay: 20 });
client.registerMethod("echo", (value) => value);
client.registerMethod("pid", () => process.pid);
client.registerMethod("never", () => {
  console.log("working");
  return new Promise(() => {});
});
client.on("connected", () => console.log("connected"));
client.on("disconnected", () => console.log("disconnected"));
await client.connect();
process.once("SIGTERM", () => client.disconnect());
console.log("ready");
