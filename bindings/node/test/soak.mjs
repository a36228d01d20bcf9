// Looks for leaks: `npm run soak`, or with other numbers `node --expose-gc test/soak.mjs CALLS CYCLES`.
//
// Makes calls, then connects and disconnects clients, and prints heap, resident memory and open descriptors as it goes. Exits
// with 1 if the heap or the descriptors have grown between the first quarter of a phase and its end.
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IPCClient, IPCServer } from "ipc-bro";

const [calls = 1_000_000, cycles = 10_000] = process.argv.slice(2).map(Number);
const IN_FLIGHT = 64;
/** What a heap may grow by: buffers of the runtime that come and go. */
const HEAP_SLACK_BYTES = 3 * 1024 * 1024;

const folder = mkdtempSync(join(tmpdir(), "ipc-bro-soak-"));
const gatewayPath = join(folder, "gateway.sock");
const server = new IPCServer({ socketPath: gatewayPath });
await server.start();
let grown = false;

await phase("calls", calls, 8, makeCalls());
await phase("connects", cycles, 8, connectAndDisconnect);
await server.stop();
rmSync(folder, { recursive: true });
process.exitCode = grown ? 1 : 0;

/** Runs `work` for every part of `count`, and compares what is measured after the first quarter with the end. */
async function phase(name, count, parts, work) {
  console.log(
    `${name.padEnd(10)} ${"heap".padStart(10)} ${"external".padStart(10)} ${"RSS".padStart(10)} ${"fds".padStart(5)}`,
  );
  const measured = [];
  for (let part = 0; part < parts; part++) {
    const begun = Math.floor((count * part) / parts);
    await work(Math.floor((count * (part + 1)) / parts) - begun);
    measured.push(await measure());
    const { heap, external, rss, fds } = measured.at(-1);
    const done = Math.floor((count * (part + 1)) / parts);
    console.log(`${String(done).padEnd(10)} ${mib(heap)} ${mib(external)} ${mib(rss)} ${String(fds).padStart(5)}`);
  }
  await work(-1);
  const [first, last] = [measured[Math.floor(parts / 4)], measured.at(-1)];
  for (const [what, slack] of [
    ["heap", HEAP_SLACK_BYTES],
    ["external", HEAP_SLACK_BYTES],
    ["fds", 0],
  ]) {
    if (last[what] <= first[what] + slack) continue;
    console.log(`${name}: ${what} grew from ${first[what]} to ${last[what]}`);
    grown = true;
  }
}

/** Calls of every kind: results, errors, timeouts, cancellations, both encodings, nested. -1 ends it. */
function makeCalls() {
  const clients = [];
  return async (count) => {
    if (count === -1) {
      for (const client of clients.splice(0)) await client.disconnect();
      return;
    }
    if (clients.length === 0) {
      const user = await connected("user", { serializer: "json" });
      user.registerMethod("echo", (value) => value);
      user.registerMethod("fail", () => Promise.reject(new Error("no")));
      user.registerMethod("nested", (value) => user.call("packed", "echo", value));
      const packed = await connected("packed", { serializer: "msgpack" });
      packed.registerMethod("echo", (value) => value);
      clients.push(
        user,
        packed,
        await connected("order", { poolSize: 2 }),
        await connected("cart", { serializer: "msgpack" }),
      );
    }
    let left = count;
    const lane = async (client) => {
      while (left-- > 0) await one(client, left);
    };
    await Promise.all(Array.from({ length: IN_FLIGHT }, (_, n) => lane(clients[2 + (n % 2)])));
  };
}

async function one(client, n) {
  if (n % 50 === 0) return await client.call("user", "fail", n).catch(() => {});
  if (n % 50 === 1) return await client.call("user", "nested", { n });
  if (n % 50 === 2) return await client.call("nobody", "echo", n).catch(() => {});
  if (n % 50 === 3) {
    const control = new AbortController();
    const call = client.call("user", "echo", n, { signal: control.signal }).catch(() => {});
    if (n % 100 === 3) control.abort();
    return await call;
  }
  if (n % 500 === 4) return await client.call("user", "echo", "x".repeat(100_000));
  if (n % 500 === 5) return await client.call("user", "echo", Buffer.alloc(1000));
  await client.call("user", "echo", { n, text: "some text" });
}

async function connectAndDisconnect(count) {
  for (let n = 0; n < count; n++) {
    const client = await connected("passing", { serializer: n % 2 ? "json" : "msgpack", poolSize: 1 + (n % 3) });
    client.registerMethod("echo", (value) => value);
    if (n % 10 === 0) await client.call("passing", "echo", n);
    await client.disconnect();
  }
}

async function connected(serviceName, config) {
  const client = new IPCClient({ serviceName, gatewayPath, ...config });
  await client.connect();
  return client;
}

async function measure() {
  for (let n = 0; n < 4; n++) {
    globalThis.gc();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { heapUsed, external, rss } = process.memoryUsage();
  return { heap: heapUsed, external, rss, fds: readdirSync("/proc/self/fd").length };
}

function mib(bytes) {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`.padStart(10);
}
