// In a worker thread: "w", whose handlers wait for their signals, and make calls when these abort.
import { parentPort, workerData } from "node:worker_threads";
import { IPCClient } from "ipc-bro";

const client = new IPCClient({ serviceName: "w", gatewayPath: workerData.path });
let held = 0;
client.registerMethod("hold", (_, { signal }) => {
  held++;
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => {
      client.call("main", "echo", signal.reason.code).then(resolve, resolve);
    });
  });
});
client.registerMethod("held", () => held);
await client.connect();
parentPort.postMessage("ready");
