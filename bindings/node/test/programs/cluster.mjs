// A cluster of four workers, each a service; the primary calls all of them. Arguments: path of the socket.
import cluster from "node:cluster";
import { IPCClient, IPCServer } from "ipc-bro";

const socketPath = process.argv[2];
const WORKERS = 4;

if (cluster.isPrimary) {
  const server = new IPCServer({ socketPath });
  const all = new Promise((resolve) => {
    server.on("service-registered", () => {
      if (server.getConnectedServices().length === WORKERS) resolve();
    });
  });
  await server.start();
  for (let n = 0; n < WORKERS; n++) cluster.fork({ NUMBER: n });
  await all;
  const client = new IPCClient({ serviceName: "primary", gatewayPath: socketPath });
  await client.connect();
  const numbers = await Promise.all(
    Array.from({ length: WORKERS }, (_, n) => client.call(`worker-${n}`, "sum", [1, 2])),
  );
  console.log(JSON.stringify(numbers));
  const gone = Promise.all(
    Object.values(cluster.workers).map((worker) => new Promise((resolve) => worker.once("exit", resolve))),
  );
  for (let n = 0; n < WORKERS; n++) await client.call(`worker-${n}`, "leave", null);
  await gone;
  await client.disconnect();
  await server.stop();
  console.log("end");
} else {
  const number = Number(process.env.NUMBER);
  const client = new IPCClient({ serviceName: `worker-${number}`, gatewayPath: socketPath });
  client.registerMethod("sum", (list) => list.reduce((a, b) => a + b, number));
  client.registerMethod("leave", () => {
    setTimeout(async () => {
      await client.disconnect();
      cluster.worker.disconnect();
    }, 10);
  });
  await client.connect();
}
