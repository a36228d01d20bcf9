// A call that is given up ends everywhere: the handler stops its work, and so does whatever it has called.
import { setTimeout as delay } from "node:timers/promises";
import { IPCClient, type IPCError } from "ipc-bro";

const gatewayPath = process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock";

// Work that takes its time is given the signal: it stops at once when nobody waits any more.
const renderer = new IPCClient({ serviceName: "render-service", gatewayPath });
renderer.registerMethod("render", async ({ pages }: { pages: number }, { signal }) => {
  signal?.addEventListener("abort", () => console.log(`rendering stops: ${(signal.reason as IPCError).code}`));
  for (let page = 1; page <= pages; page++) await delay(5, undefined, { signal });
  return { pages };
});

// Nested calls end by themselves: `render` is given up with `make`.
const reports = new IPCClient({ serviceName: "report-service", gatewayPath });
reports.registerMethod("make", async ({ pages }: { pages: number }, { signal }) => {
  signal?.addEventListener("abort", () => console.log(`report withdrawn: ${(signal.reason as IPCError).code}`));
  return await reports.call("render-service", "render", { pages });
});

await renderer.connect();
await reports.connect();

const web = new IPCClient({ serviceName: "web", gatewayPath });
await web.connect();
const report = web.service<{ make(params: { pages: number }): { pages: number } }>("report-service");

console.log(`${(await report.make({ pages: 2 })).pages} pages`);

// Whoever asked has closed the window.
const control = new AbortController();
setTimeout(() => control.abort(), 50);
const given = report.make({ pages: 100_000 }, { signal: control.signal });
await given.catch((error: IPCError) => console.log(`given up: ${error.code}`));

// A timeout does the same.
await report.make({ pages: 100_000 }, { timeout: 50 }).catch((error: IPCError) => console.log(`late: ${error.code}`));

for (const client of [web, reports, renderer]) await client.disconnect({ drain: true });
