// Programs that are started in any order: calls wait for a service that is not there yet.
import { IPCClient } from "ipc-bro";

const gatewayPath = process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock";

// Waits up to ten seconds for the gateway, and its calls as long for their services.
const web = new IPCClient({ serviceName: "web", gatewayPath, waitForGateway: 10_000, waitForService: true });
const connecting = web.connect();
const price = web.call("price-service", "priceOf", { item: "lamp" });
await connecting;
console.log(`${web.stats().waitingCalls} call waits`);

// Usually this is another program, and starts when it likes.
const prices = new IPCClient({ serviceName: "price-service", gatewayPath });
prices.registerMethod("priceOf", ({ item }: { item: string }) => ({ item, cents: 4_900 }));
await prices.connect();
console.log(await price);

// Who does not want to wait says so, and is told at once.
const { code } = await web.call("tax-service", "taxOf", {}, { waitForService: false }).catch((error) => error);
console.log(code);

for (const client of [web, prices]) await client.disconnect();
