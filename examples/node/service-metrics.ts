// The work of a service, as StatsD counters and timings.
import { IPCClient } from "ipc-bro";
import { StatsD } from "./statsd.js";

const statsd = new StatsD();
const client = new IPCClient({
  serviceName: "analytics-service",
  gatewayPath: process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock",
});

client.on("method-executed", ({ method, success }) => {
  statsd.increment("ipc.methods.executed", { method, success });
});
client.on("response-received", ({ success }) => {
  statsd.increment("ipc.calls.ended", { success });
});

client.registerMethod("trackEvent", async ({ event, userId }: { event: string; userId?: string }) => {
  const begun = performance.now();
  try {
    console.log(`event ${event}`);
    if (userId !== undefined) await client.call("user-service", "getUserById", { userId });
    return { success: true };
  } finally {
    statsd.timing("ipc.methods.trackEvent.duration", Math.round(performance.now() - begun));
  }
});

await client.connect();
console.log("ready");

process.once("SIGTERM", () => client.disconnect());
