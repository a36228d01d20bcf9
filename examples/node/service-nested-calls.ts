// A method that asks two other services. They see the whole chain of calls, and share its deadline, without being told.
import { IPCClient } from "ipc-bro";

interface User {
  id: string;
  name: string;
}

const gatewayPath = process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock";
const orders = new IPCClient({ serviceName: "order-service", gatewayPath });

orders.registerMethod("getOrderDetails", async ({ orderId }, { depth }) => {
  console.log(`depth ${depth}: order ${orderId}`);
  const order = { id: orderId, userId: "123", items: ["tea", "biscuits"], total: 12.5 };
  const [user, stock] = await Promise.all([
    orders.call<User | null>("user-service", "getUserById", { userId: order.userId }),
    orders.call<Record<string, number>>("inventory-service", "checkStock", { items: order.items }),
  ]);
  return { order, user, stock };
});

// Usually in a process of its own; any number of services can share one.
const inventory = new IPCClient({ serviceName: "inventory-service", gatewayPath });

inventory.registerMethod("checkStock", async ({ items }: { items: string[] }, { chain, depth }) => {
  console.log(`depth ${depth}: stock, for ${chain.join(" -> ")}`);
  return Object.fromEntries(items.map((item) => [item, item.length]));
});

await Promise.all([orders.connect(), inventory.connect()]);
console.log("ready");

process.once("SIGTERM", async () => {
  await orders.disconnect();
  await inventory.disconnect();
});
