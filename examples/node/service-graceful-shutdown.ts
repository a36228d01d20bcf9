// Leaving in order: at SIGTERM the service takes no more calls, finishes those in work, and goes.
import { setTimeout as delay } from "node:timers/promises";
import { IPCClient } from "ipc-bro";

const client = new IPCClient({
  serviceName: "import-service",
  gatewayPath: process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock",
});

client.registerMethod("import", async ({ rows }: { rows: number }, { signal }) => {
  console.log(`importing ${rows} rows`);
  // Only where even the drain takes too long the signal aborts, with SHUTTING_DOWN.
  await delay(rows, undefined, { signal });
  console.log(`imported ${rows} rows`);
  return { rows };
});

// The gateway may be the one that leaves.
client.on("gateway-draining", () => console.log("the gateway is about to stop"));

await client.connect();
console.log("ready");

process.once("SIGTERM", async () => {
  const { requestsInWork } = client.stats();
  console.log(`leaving, with ${requestsInWork} in work`);
  await client.disconnect({ drain: 10_000 });
  console.log("left in order");
});
