// In a worker thread: a service that is called, and calls "main" as often as `calls` says (-1: without end).
import { parentPort, workerData } from "node:worker_threads";
import { IPCClient } from "ipc-bro";

const { path, name, calls, serializer = "json" } = workerData;
const client = new IPCClient({ serviceName: name, gatewayPath: path, serializer });
client.registerMethod("echo", (value) => value);
client.registerMethod("who", (_, { caller }) => caller);
client.registerMethod("never", () => new Promise(() => {}));
await client.connect();
parentPort.postMessage("ready");
for (let n = 0; n !== calls; n++) {
  const results = await Promise.all(Array.from({ length: 16 }, (_, m) => client.call("main", "echo", { n, m })));
  if (results.some(({ m }, at) => m !== at)) throw new Error("not my answer");
}
await client.disconnect();
parentPort.postMessage("done");
parentPort.close();
