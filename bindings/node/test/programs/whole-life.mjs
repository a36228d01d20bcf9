// Does what the first argument names, and must then end by itself. Arguments: what, path of the socket.
import { createRequire } from "node:module";
import { IPCClient, IPCServer } from "ipc-bro";

const [what, socketPath] = process.argv.slice(2);
const require = createRequire(import.meta.url);

async function gateway() {
  const server = new IPCServer({ socketPath });
  await server.start();
  return server;
}

async function client(serviceName, more = {}) {
  const client = new IPCClient({ serviceName, gatewayPath: socketPath, ...more });
  client.registerMethod("echo", (value) => value);
  client.registerMethod("never", () => new Promise(() => {}));
  await client.connect();
  return client;
}

const lives = {
  "import alone": async () => {},
  "require alone": async () => void require("ipc-bro"),
  "never connected": async () => void new IPCClient({ serviceName: "a", gatewayPath: socketPath }),
  "never started": async () => void new IPCServer({ socketPath }),
  "gateway stopped": async () => {
    const server = await gateway();
    await server.stop();
  },
  "everything closed": async () => {
    const server = await gateway();
    const [a, b] = [await client("a"), await client("b", { serializer: "msgpack", poolSize: 3 })];
    console.log(await a.call("b", "echo", "called"));
    await a.disconnect();
    await b.disconnect();
    await server.stop();
  },
  "calls pending": async () => {
    const server = await gateway();
    const [a, b] = [await client("a"), await client("b")];
    const call = a.call("b", "never", null, { timeout: 600_000 }).catch(({ code }) => console.log(code));
    await a.disconnect();
    await call;
    await b.disconnect();
    await server.stop();
  },
  "disconnect not awaited": async () => {
    const server = await gateway();
    const a = await client("a");
    a.disconnect();
    server.stop();
  },
  "disconnect while reconnecting": async () => {
    const server = await gateway();
    const a = await client("a", { reconnectDelay: 600_000 });
    const lost = new Promise((resolve) => a.once("disconnected", resolve));
    await server.stop();
    await lost;
    await a.disconnect();
  },
  "connect failed": async () => {
    const a = new IPCClient({ serviceName: "a", gatewayPath: socketPath });
    await a.connect().catch(({ code }) => console.log(code));
  },
  "lost for good": async () => {
    const server = await gateway();
    await client("a", { autoReconnect: false });
    await server.stop();
  },
  "await using": async () => {
    const server = await gateway();
    const a = await client("a");
    await a[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
    console.log(a.isConnected(), server.getStatus().running);
  },
  "process.exit with everything open": async () => {
    await gateway();
    const [a] = [await client("a"), await client("b")];
    for (let n = 0; n < 100; n++) a.call("b", "never", n).catch(() => {});
    setTimeout(() => process.exit(7), 20);
  },
  "process.exit in a handler": async () => {
    await gateway();
    const [a, b] = [await client("a"), await client("b")];
    b.registerMethod("exit", () => process.exit(7));
    await a.call("b", "exit", null);
  },
  "nothing awaited": async () => {
    const server = await gateway();
    const [a, b] = [await client("a"), await client("b")];
    const calls = Array.from({ length: 1000 }, (_, n) => a.call("b", "echo", n));
    await Promise.all(calls);
    a.disconnect();
    b.disconnect();
    server.stop();
  },
  "failed calls only": async () => {
    const server = await gateway();
    const a = await client("a");
    for (let n = 0; n < 10; n++) await a.call("nobody", "echo", n).catch(() => {});
    await a.disconnect();
    await server.stop();
  },
};

await lives[what]();
console.log("end");
