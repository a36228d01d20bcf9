// In a worker thread: a gateway with listeners, until it is told to stop.
import { parentPort, workerData } from "node:worker_threads";
import { IPCServer } from "ipc-bro";

const server = new IPCServer({ socketPath: workerData.path });
let routed = 0;
server.on("call-routed", () => routed++);
await server.start();
parentPort.postMessage("ready");
parentPort.once("message", async () => {
  await server.stop();
  parentPort.postMessage(routed);
  parentPort.close();
});
