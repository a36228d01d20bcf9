// Who may do what: a gateway with a policy, and a service that looks who calls. It brings its own gateway.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IPCClient, IPCError, IPCErrorCode, IPCServer } from "ipc-bro";

const folder = mkdtempSync(join(tmpdir(), "who-may-what-"));
const gatewayPath = join(folder, "gateway.sock");

// Usually rules name users and groups of the system, see docs/policy.md. Here everybody is one user, so they are for all.
const toml = `
trust_gateway_user = false

[[rules]]
users = ["*"]
own = ["billing", "web", "support"]
call = [{ service = "billing", methods = ["quote", "refund"] }]
`;
const server = new IPCServer({ socketPath: gatewayPath, policy: { toml } });
await server.start();

const billing = new IPCClient({ serviceName: "billing", gatewayPath });
billing.registerMethod("quote", ({ items }: { items: number }) => items * 5);
billing.registerMethod("refund", ({ order }: { order: string }, { caller }) => {
  // By the gateway's word, whatever the caller says of itself.
  if (caller !== "support") throw new IPCError(`${caller} may not refund`, IPCErrorCode.PERMISSION_DENIED);
  return `${order} refunded for ${caller}`;
});
billing.registerMethod("close", () => "closed");
await billing.connect();

const [web, support] = ["web", "support"].map((serviceName) => new IPCClient({ serviceName, gatewayPath }));
await Promise.all([web!.connect(), support!.connect()]);

const denied = (error: IPCError) => `${error.code}: ${error.message}`;
console.log("web asks for a quote:", await web!.call("billing", "quote", { items: 3 }));
console.log("web refunds:", await web!.call("billing", "refund", { order: "o7" }).catch(denied));
console.log("support refunds:", await support!.call("billing", "refund", { order: "o7" }));
console.log("support closes:", await support!.call("billing", "close").catch(denied));

const admin = new IPCClient({ serviceName: "admin", gatewayPath, autoReconnect: false });
console.log("admin connects:", await admin.connect().then(() => "welcome", denied));

// Who is behind a name, as the system knows it.
const [instance] = server.getService("support")?.instances ?? [];
console.log("support is this process:", instance?.pid === process.pid && instance?.uid === process.getuid?.());

for (const client of [web!, support!, billing]) await client.disconnect();
await server.stop();
rmSync(folder, { recursive: true });
