// Worker threads: several environments in one process, also such that end in the middle of something.
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { program } from "./support/children.mjs";
import { atEnd, codeOf, connect, freePath, next, pathOf, startGateway, until } from "./support/ipc.mjs";

function startWorker(t, name, workerData) {
  const worker = new Worker(program(name), { workerData });
  atEnd(t, () => worker.terminate());
  const exit = next(worker, "exit");
  const failed = new Promise((_, reject) => worker.once("error", reject));
  failed.catch(() => {});
  return { worker, exit, message: () => Promise.race([next(worker, "message").then(([text]) => text), failed]) };
}

test("clients in workers call and are called", async (t) => {
  const server = await startGateway(t);
  const main = await connect(t, server, "main", { echo: (value) => value });
  const workers = [0, 1, 2].map((n) => {
    const serializer = n === 2 ? "msgpack" : "json";
    return startWorker(t, "worker.mjs", { path: pathOf(server), name: `w${n}`, calls: 50, serializer });
  });
  await Promise.all(
    workers.map(async ({ message, exit }, n) => {
      assert.equal(await message(), "ready");
      const done = message();
      const echoed = await main.call(`w${n}`, "echo", { n }).catch(({ code }) => code);
      if (typeof echoed === "object") assert.deepEqual(echoed, { n });
      assert.equal(await done, "done");
      assert.deepEqual(await exit, [0]);
    }),
  );
});

test("terminate() in the middle of calls, fifty times", async (t) => {
  const server = await startGateway(t);
  const main = await connect(t, server, "main", { echo: (value) => value }, { timeout: 600_000 });
  for (let round = 0; round < 50; round++) {
    const { worker, message, exit } = startWorker(t, "worker.mjs", { path: pathOf(server), name: "w", calls: -1 });
    assert.equal(await message(), "ready");
    const pending = codeOf(main.call("w", "never", null));
    await main.call("w", "echo", round);
    await worker.terminate();
    await exit;
    assert.equal(await pending, "CONNECTION_LOST");
    await until(() => !server.isServiceConnected("w"));
  }
  assert.equal(await main.call("main", "echo", "alive"), "alive");
});

test("terminate() while handlers hold signals", async (t) => {
  const server = await startGateway(t);
  const main = await connect(t, server, "main", { echo: (value) => value }, { timeout: 600_000 });
  for (let round = 0; round < 20; round++) {
    const { worker, message, exit } = startWorker(t, "worker-signals.mjs", { path: pathOf(server) });
    assert.equal(await message(), "ready");
    const controls = Array.from({ length: 20 }, () => new AbortController());
    const calls = controls.map(({ signal }) => codeOf(main.call("w", "hold", null, { signal })));
    await until(async () => (await main.call("w", "held", null)) === 20);
    // Some are being told that they are given up at that very moment.
    for (const control of controls.slice(0, round)) control.abort();
    await worker.terminate();
    await exit;
    const ended = [...Array(round).fill("CANCELLED"), ...Array(20 - round).fill("CONNECTION_LOST")];
    assert.deepEqual(await Promise.all(calls), ended);
    await until(() => !server.isServiceConnected("w"));
  }
  assert.equal(await main.call("main", "echo", "alive"), "alive");
});

test("terminate() while connecting", async (t) => {
  const server = await startGateway(t);
  await connect(t, server, "main", { echo: (value) => value });
  for (let round = 0; round < 10; round++) {
    const { worker, exit } = startWorker(t, "worker.mjs", { path: pathOf(server), name: "w", calls: -1 });
    await next(worker, "online");
    if (round % 2 === 1) await new Promise((resolve) => setTimeout(resolve, round * 4));
    await worker.terminate();
    await exit;
    await until(() => !server.isServiceConnected("w"));
  }
});

describe("a gateway in a worker", () => {
  test("serves the main thread", async (t) => {
    const path = freePath(t);
    const { worker, message, exit } = startWorker(t, "worker-gateway.mjs", { path });
    assert.equal(await message(), "ready");
    await connect(t, path, "user", { echo: (n) => n }, { autoReconnect: false });
    const order = await connect(t, path, "order", {}, { autoReconnect: false });
    for (let n = 0; n < 20; n++) assert.equal(await order.call("user", "echo", n), n);
    const routed = message();
    worker.postMessage("stop");
    assert.ok((await routed) > 0);
    assert.deepEqual(await exit, [0]);
  });

  test("is gone after terminate(): its path is free again", async (t) => {
    const path = freePath(t);
    for (let round = 0; round < 10; round++) {
      const { worker, message, exit } = startWorker(t, "worker-gateway.mjs", { path });
      assert.equal(await message(), "ready");
      const client = await connect(t, path, "order", {}, { autoReconnect: false });
      const lost = next(client, "disconnected");
      await worker.terminate();
      await exit;
      await lost;
    }
    const server = await startGateway(t, { socketPath: path });
    assert.ok(server.getStatus().running);
  });
});

test("workers leave no descriptor behind", async (t) => {
  const server = await startGateway(t);
  await connect(t, server, "main", { echo: (value) => value });
  const count = () => readdirSync("/proc/self/fd").length;
  const round = async () => {
    const { worker, message, exit } = startWorker(t, "worker.mjs", { path: pathOf(server), name: "w", calls: -1 });
    await message();
    await worker.terminate();
    await exit;
    await until(() => !server.isServiceConnected("w"));
  };
  for (let n = 0; n < 3; n++) await round();
  const before = count();
  for (let n = 0; n < 10; n++) await round();
  await until(() => count() <= before + 2);
});
