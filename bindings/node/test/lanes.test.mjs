// Lanes: calls that go through shared memory, past the gateway, and everything that can become of a lane.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { program, start } from "./support/children.mjs";
import { atEnd, codeOf, collect, connect, freePath, next, pathOf, startGateway, until } from "./support/ipc.mjs";
import { broCommand, laned, settle, startBroGateway, statusOf } from "./support/lanes.mjs";

const lanesHere = () =>
  readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .filter((line) => line.includes("memfd:"));
const descriptors = () => readdirSync("/proc/self/fd").length;

describe("calls on a lane", () => {
  test("do not pass the gateway, which is told of them", async (t) => {
    const { order } = await laned(t);
    const before = await statusOf(order);
    for (let n = 0; n < 500; n++) assert.deepEqual(await order.call("user", "echo", { n }), { n });
    const { callsRouted, laneErrors } = await statusOf(order);
    assert.equal(callsRouted, before.callsRouted);
    await until(async () => (await statusOf(order)).laneCalls >= before.laneCalls + 500);
    assert.equal(laneErrors, before.laneErrors);
  });

  test("have the context that the gateway would make", async (t) => {
    const { order } = await laned(t);
    const { root, chain, depth } = await order.call("user", "chain");
    assert.match(root, /^root-\d+-[0-9a-z]{6}$/);
    assert.deepEqual({ chain, depth }, { chain: ["order", "user"], depth: 2 });
  });

  test("go both ways, also for each other", async (t) => {
    const methods = { chain: (_, { root, chain, depth }) => ({ root, chain, depth }), echo: (value) => value };
    const { order } = await laned(t, { methods });
    const back = { service: "order", method: "chain" };
    const { chain, depth } = await order.call("user", "forward", back);
    assert.deepEqual({ chain, depth }, { chain: ["order", "user", "order"], depth: 3 });
    const { callsRouted } = await statusOf(order);
    assert.equal(await order.call("user", "burst", { service: "order", count: 2000, inFlight: 64 }), 2000);
    assert.equal((await statusOf(order)).callsRouted, callsRouted);
  });

  for (const serializer of ["json", "msgpack"]) {
    test(`carry values of any size, more than a lane has room for (${serializer})`, async (t) => {
      const { order } = await laned(t, { order: { serializer }, user: { serializer } });
      const { callsRouted } = await statusOf(order);
      const sizes = [0, 1, 5000, 70_000, 1 << 20, 8 << 20];
      const calls = [...sizes, ...sizes].map(async (size, at) => {
        const sent = String.fromCharCode(97 + at).repeat(size);
        assert.ok((await order.call("user", "echo", sent)) === sent, `${size}`);
      });
      await Promise.all(calls);
      const bytes = serializer === "msgpack" ? Buffer.alloc(3 << 20, 7) : Buffer.alloc(1 << 18, 7);
      assert.ok(bytes.equals(await order.call("user", "echo", bytes)));
      assert.equal((await statusOf(order)).callsRouted, callsRouted);
    });
  }

  test("fail as others do", async (t) => {
    const { order } = await laned(t);
    assert.equal(await codeOf(order.call("user", "none")), "METHOD_NOT_FOUND");
    assert.equal(await codeOf(order.call("user", "forward", { service: "user", method: "none" })), "METHOD_NOT_FOUND");
    assert.equal(await codeOf(order.call("user", "never", null, { timeout: 50 })), "TIMEOUT");
    const given = new AbortController();
    const call = order.call("user", "never", null, { signal: given.signal });
    given.abort();
    assert.equal(await codeOf(call), "CANCELLED");
    assert.equal(await order.call("user", "echo", "still there"), "still there");
  });

  test("are answered while the loop spins for them", async (t) => {
    const { order } = await laned(t, { order: { laneSpinUs: 50 }, user: { laneSpinUs: 50 } });
    for (let n = 0; n < 2000; n++) assert.equal(await order.call("user", "echo", n), n);
    // Timers and descriptors of others are served meanwhile.
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    atEnd(t, () => clearInterval(timer));
    await until(async () => {
      await order.call("user", "echo", ticks);
      return ticks >= 20;
    });
    assert.equal(await order.call("user", "burst", { service: "user", count: 10, inFlight: 2 }), 10);
  });

  test("are made and served by a program in Rust", async (t) => {
    const { path } = await startBroGateway(t, freePath(t));
    const child = spawn(broCommand(), ["demo-service", "user-service", "--socket", path], {
      stdio: ["pipe", "ignore", "inherit"],
    });
    const exit = new Promise((resolve) => child.on("exit", resolve));
    atEnd(t, async () => {
      child.stdin.end();
      await exit;
    });
    const getRole = ({ userId }) => ({ role: `of ${userId}` });
    const order = await connect(t, path, "order", {}, { heartbeatInterval: 500 });
    const role = await connect(t, path, "role-service", { getRole }, { heartbeatInterval: 500 });
    await order.call("bro.gateway", "waitFor", { service: "user-service" });
    const lookUp = async (userId) => {
      const user = await order.call("user-service", "getUserById", { userId });
      assert.deepEqual(user, { id: userId, name: "Asha", role: `of ${userId}` });
    };
    await until(async () => {
      const { callsRouted } = await statusOf(order);
      for (let n = 0; n < 20; n++) await lookUp(`${n}`);
      const after = await statusOf(order);
      return after.lanes === 2 && after.callsRouted === callsRouted;
    });
    const { callsRouted } = await statusOf(order);
    await Promise.all(Array.from({ length: 1000 }, (_, n) => lookUp(`u${n}`)));
    assert.equal((await statusOf(role)).callsRouted, callsRouted);
  });
});

describe("a lane and its gateway", () => {
  test("calls go on while it is away, and it is told of the lane when it is back", async (t) => {
    const { order, gateway, user } = await laned(t);
    const lost = next(order, "disconnected");
    await gateway.stop();
    await lost;
    await user.printed("disconnected");
    assert.equal(order.isConnected(), false);
    for (let n = 0; n < 200; n++) assert.equal(await order.call("user", "echo", n), n);
    assert.equal(await codeOf(order.call("role", "echo")), "NOT_CONNECTED");
    assert.equal(await codeOf(order.call(undefined, "echo")), "NOT_CONNECTED");
    const back = next(order, "connected");
    await startBroGateway(t, gateway.path);
    await back;
    await until(async () => (await statusOf(order)).lanes === 1);
    assert.equal(await order.call("user", "echo", "x"), "x");
    assert.equal((await statusOf(order)).callsRouted, 0);
  });

  test("whoever watches single calls sees every one, and the lane comes back afterwards", async (t) => {
    const server = await startGateway(t);
    const user = start(t, "laned.mjs", pathOf(server), "user");
    await user.printed("ready");
    const order = await connect(t, server, "order", {}, { heartbeatInterval: 500 });
    const many = () => Promise.all(Array.from({ length: 600 }, (_, n) => order.call("user", "echo", n)));
    const isLaned = async () => {
      await many();
      return (await statusOf(order)).lanes === 1;
    };
    await until(isLaned);
    const seen = collect(server, "call-routed");
    await until(async () => (await statusOf(order)).lanes === 0);
    const before = seen.length;
    await many();
    await until(() => seen.filter(({ to }) => to === "user").length >= before + 600);
    server.removeAllListeners("call-routed");
    await until(isLaned);
  });

  test("is not offered where it is not wanted", async (t) => {
    const { path } = await startBroGateway(t, freePath(t));
    await connect(t, path, "user", { echo: (value) => value }, { lanes: false });
    const order = await connect(t, path, "order");
    for (let n = 0; n < 200; n++) await order.call("user", "echo", n);
    const { lanesOffered, callsRouted } = await statusOf(order);
    assert.deepEqual({ lanesOffered, callsRouted }, { lanesOffered: 0, callsRouted: 200 });
  });

  test("with connections of their own in a pool", async (t) => {
    const { order } = await laned(t, { order: { poolSize: 3 }, user: { poolSize: 2 } });
    assert.equal(await order.call("user", "burst", { service: "user", count: 100, inFlight: 10 }), 100);
    const all = await Promise.all(Array.from({ length: 500 }, (_, n) => order.call("user", "echo", n)));
    assert.deepEqual(all, [...all.keys()]);
  });
});

describe("the end of a lane", () => {
  test("a callee that is killed ends the calls on it at once", async (t) => {
    const { order, user } = await laned(t);
    const calls = Array.from({ length: 100 }, () => codeOf(order.call("user", "never", null, { timeout: 600_000 })));
    await user.printed("working");
    user.child.kill("SIGKILL");
    assert.deepEqual(new Set(await Promise.all(calls)), new Set(["CONNECTION_LOST"]));
    // Until the gateway has noticed, too.
    assert.match(await codeOf(order.call("user", "echo")), /^(CONNECTION_LOST|SERVICE_NOT_FOUND)$/);
  });

  test("a callee that is killed while the gateway is away, too", async (t) => {
    const { order, gateway, user } = await laned(t);
    await gateway.stop();
    const call = codeOf(order.call("user", "never", null, { timeout: 600_000 }));
    await user.printed("working");
    user.child.kill("SIGKILL");
    assert.equal(await call, "CONNECTION_LOST");
    assert.equal(await codeOf(order.call("user", "echo")), "NOT_CONNECTED");
  });

  test("a callee that is killed in the middle of a burst", async (t) => {
    const { order, user } = await laned(t);
    let answered = 0;
    const keepCalling = async () => {
      for (;;) {
        await order.call("user", "echo", "x".repeat(3000));
        if (++answered === 2000) user.child.kill("SIGKILL");
      }
    };
    const codes = await Promise.all(Array.from({ length: 64 }, () => codeOf(keepCalling())));
    for (const code of codes) assert.match(code, /^(CONNECTION_LOST|SERVICE_NOT_FOUND)$/);
  });

  test("who disconnects answers what is in work, and its process ends", async (t) => {
    const { order, user } = await laned(t);
    const call = codeOf(order.call("user", "never", null, { timeout: 600_000 }));
    await user.printed("working");
    user.child.kill("SIGTERM");
    assert.equal(await call, "SHUTTING_DOWN");
    const { code, stderr } = await user.exit;
    assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
  });

  test("the process of a caller ends, too", async (t) => {
    const { gateway } = await laned(t);
    const caller = start(t, "laned.mjs", gateway.path, "caller");
    await caller.printed("ready");
    const order = await connect(t, gateway.path, "asker");
    await order.call("caller", "burst", { service: "user", count: 1000, inFlight: 10 });
    caller.child.kill("SIGTERM");
    assert.equal((await caller.exit).code, 0);
  });

  test("a lane alone keeps no process alive", async (t) => {
    const { gateway } = await laned(t);
    const caller = start(t, "laned.mjs", gateway.path, "caller", JSON.stringify({ autoReconnect: false }));
    await caller.printed("ready");
    const order = await connect(t, gateway.path, "asker", {}, { autoReconnect: false });
    await order.call("caller", "burst", { service: "user", count: 1000, inFlight: 10 });
    await gateway.stop();
    assert.equal((await caller.exit).code, 0);
  });

  test("terminate() of a worker in the middle of calls leaves nothing behind", async (t) => {
    const gateway = await startBroGateway(t, freePath(t));
    const main = await connect(t, gateway.path, "main", { echo: (value) => value });
    const round = async () => {
      const workerData = { path: gateway.path, name: "w", calls: -1 };
      const worker = new Worker(program("worker.mjs"), { workerData });
      atEnd(t, () => worker.terminate());
      await next(worker, "message");
      await settle(main, "w");
      const pending = codeOf(main.call("w", "never", null, { timeout: 600_000 }));
      await main.call("w", "echo", 1);
      const exit = next(worker, "exit");
      await worker.terminate();
      await exit;
      assert.equal(await pending, "CONNECTION_LOST");
    };
    for (let n = 0; n < 3; n++) await round();
    const before = { fds: descriptors(), maps: lanesHere().length };
    for (let n = 0; n < 15; n++) await round();
    await until(() => descriptors() <= before.fds + 2 && lanesHere().length <= before.maps);
  });

  test("ten thousand calls, and lanes that come and go, leave nothing behind", async (t) => {
    const { order, gateway, user } = await laned(t);
    const before = { here: descriptors(), there: await order.call("user", "descriptors"), maps: lanesHere().length };
    for (let n = 0; n < 100; n++) await Promise.all(Array.from({ length: 100 }, () => order.call("user", "echo", n)));
    for (let n = 0; n < 5; n++) {
      const other = await connect(t, gateway.path, "other");
      await settle(other, "user");
      await other.disconnect();
    }
    await until(() => descriptors() <= before.here + 2 && lanesHere().length <= before.maps);
    await until(async () => (await order.call("user", "descriptors")) <= before.there + 2);
    assert.equal(user.child.exitCode, null);
  });
});

test("two copies of the package have lanes to each other, in one thread", async (t) => {
  const { path } = await startBroGateway(t, freePath(t));
  const second = createRequire(import.meta.url)(new URL("../second/node_modules/ipc-bro", import.meta.url).pathname);
  const other = new second.IPCClient({ serviceName: "other", gatewayPath: path, laneSpinUs: 20 });
  atEnd(t, () => other.disconnect());
  const order = await connect(t, path, "order", { echo: (value) => value }, { laneSpinUs: 20 });
  other.registerMethod("echo", (value) => value);
  other.registerMethod("back", (value) => other.call("order", "echo", value));
  await other.connect();
  await settle(order, "other");
  const { callsRouted } = await statusOf(order);
  for (let n = 0; n < 300; n++) assert.deepEqual(await order.call("other", "back", { n }), { n });
  const many = await Promise.all(Array.from({ length: 300 }, (_, n) => order.call("other", "back", n)));
  assert.deepEqual(many, [...many.keys()]);
  assert.equal((await statusOf(order)).callsRouted, callsRouted);
});
