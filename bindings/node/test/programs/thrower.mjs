// A listener of the event that the arguments name throws. Arguments: path of the socket, class, event.
import { IPCClient, IPCServer } from "ipc-bro";

const [socketPath, thrower, event] = process.argv.slice(2);
process.on("uncaughtException", (error) => console.log(`uncaught ${error.message}`));

const server = new IPCServer({ socketPath });
const user = new IPCClient({ serviceName: "user", gatewayPath: socketPath });
user.registerMethod("echo", (value) => value);
const order = new IPCClient({ serviceName: "order", gatewayPath: socketPath });
const emitter = { server, user, order }[thrower];
emitter.on(event, () => {
  throw new Error("mine");
});

await server.start();
await user.connect();
await order.connect();
const settle = () => new Promise((resolve) => setTimeout(resolve, 50));
for (let n = 0; n < 5; n++) await order.call("user", "echo", n);
await order.call("nobody", "echo", 1).catch(() => {});
const calls = await Promise.all(Array.from({ length: 100 }, (_, n) => order.call("user", "echo", n)));
console.log(`answers ${calls.length}`);
await settle();
await order.disconnect();
await user.disconnect();
await server.stop();
await settle();
console.log("end");
