// Clients that call without pause, and tell what they have seen. Arguments: path of the socket, begin of their names, how many.
// The first one serves `echo`. Lines of stdin: the names of those to be called; one when gateways begin to be replaced; one when it is enough.
// They disconnect at the end of stdin.
import { createInterface } from "node:readline";
import { IPCClient } from "ipc-bro";

const [gatewayPath, prefix, count] = process.argv.slice(2);
const figures = { alone_us: [], during_us: [], failed: {}, lost: 0 };
const SIZES = [20, 20, 20, 2048, 64 * 1024];
const clients = [];
let isOver = false;
let isAlone = true;

for (let n = 0; n < Number(count); n++) {
  const client = new IPCClient({ serviceName: `${prefix}-${n}`, gatewayPath, serializer: n % 2 ? "msgpack" : "json" });
  if (n === 0) client.registerMethod("echo", (value) => value);
  client.on("disconnected", () => {
    if (!isOver) figures.lost += 1;
  });
  await client.connect();
  clients.push(client);
}
console.log("connected");

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const callees = (await lines.next()).value.split(" ");
const calling = clients.slice(1).map(callOn);
await lines.next();
isAlone = false;
await lines.next();
isOver = true;
await Promise.all(calling);
console.log(JSON.stringify(figures));
while (!(await lines.next()).done);
await Promise.all(clients.map((client) => client.disconnect()));

async function callOn(client, seed) {
  for (let n = seed; !isOver; n++) {
    const params = { n, text: "x".repeat(SIZES[n % SIZES.length]) };
    const [begun, wasAlone] = [performance.now(), isAlone];
    try {
      const answer = await client.call(callees[n % callees.length], "echo", params);
      if (answer.n !== n || answer.text.length !== params.text.length) throw new Error("another answer");
      figures[wasAlone ? "alone_us" : "during_us"].push(Math.round((performance.now() - begun) * 1000));
    } catch (error) {
      figures.failed[error.message] = (figures.failed[error.message] ?? 0) + 1;
    }
  }
}
