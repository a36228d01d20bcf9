// Telling without asking: nobody waits for the answer, and nobody is held up where there is none.
import { IPCClient } from "ipc-bro";

const gatewayPath = process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock";

interface AuditApi {
  record(params: { action: string; by: string }): void;
}

const audit = new IPCClient({ serviceName: "audit-service", gatewayPath });
let left = 2;
const recorded = new Promise<void>((resolve) => {
  audit.registerMethod("record", ({ action, by }: { action: string; by: string }, { chain }) => {
    console.log(`${by}: ${action} (${chain.join(" -> ")})`);
    if (--left === 0) resolve();
  });
});
await audit.connect();

// A handler tells what it has done. That continues its chain as a call would.
const orders = new IPCClient({ serviceName: "order-service", gatewayPath });
const { record } = orders.notifier<AuditApi>("audit-service");
orders.registerMethod("place", async ({ by }: { by: string }) => {
  await record({ action: "order placed", by });
  return { id: 7 };
});
await orders.connect();

const web = new IPCClient({ serviceName: "web", gatewayPath });
await web.connect();
console.log(await web.call("order-service", "place", { by: "ada" }));
await web.notify("audit-service", "record", { action: "looked around", by: "ada" });

// It resolves when it is on its way, and not later: whether somebody is there is not told.
await web.notify("no-such-service", "record", { action: "nothing", by: "ada" });

await recorded;
console.log(`${web.stats().notifications} sent`);

for (const client of [web, orders, audit]) await client.disconnect();
