// Leaving without dropping a call.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { IPCClient } from "ipc-bro";
import { atEnd, codeOf, collect, connect, freePath, next, startGateway, until } from "./support/ipc.mjs";
import { OldGateway } from "./support/old-gateway.mjs";

/** "user" with calls of `hold` in work until `release` is called, made by "order". */
async function withHeld(t, gateway, count = 3, config = {}) {
  const held = [];
  const signals = [];
  const user = await connect(
    t,
    gateway,
    "user",
    {
      hold: (value, { signal }) =>
        new Promise((resolve) => {
          signals.push(signal);
          held.push(() => resolve(value));
        }),
      echo: (value) => value,
    },
    config,
  );
  const order = await connect(t, gateway, "order", { echo: (value) => value });
  const calls = Array.from({ length: count }, (_, n) => order.call("user", "hold", n));
  for (const call of calls) call.catch(() => {});
  await until(() => held.length === count);
  const release = () => {
    for (const end of held.splice(0)) end();
  };
  return { user, order, calls, signals, release };
}

/** Whether a promise is settled, once everything that is on its way has arrived. */
async function isSettled(promise, client, service = "order") {
  let settled = false;
  promise.then(
    () => {
      settled = true;
    },
    () => {
      settled = true;
    },
  );
  await client.call(service, "echo", 1);
  return settled;
}

describe("drain()", () => {
  test("resolves when calls in work are answered; new ones are refused", async (t) => {
    const server = await startGateway(t);
    const { user, order, calls, signals, release } = await withHeld(t, server);
    const drained = user.drain();
    await until(async () => (await order.call("user", "echo", 1).catch(({ code }) => code)) === "SHUTTING_DOWN");
    assert.equal(await isSettled(drained, order), false);
    // Its own calls go on.
    assert.equal(await user.call("order", "echo", 5), 5);
    release();
    assert.deepEqual(await Promise.all(calls), [0, 1, 2]);
    assert.equal(await drained, undefined);
    assert.ok(signals.every(({ aborted }) => !aborted));
    assert.ok(user.isConnected());
  });

  test("resolves at once where nothing is in work, and any number of times", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user");
    await Promise.all([user.drain(), user.drain()]);
    await user.drain({ timeout: 1000 });
  });

  test("of a client that is not connected has nothing to do, and changes nothing", async (t) => {
    const server = await startGateway(t);
    const { socketPath } = server.getStatus();
    const user = new IPCClient({ serviceName: "user", gatewayPath: socketPath });
    user.registerMethod("echo", (value) => value);
    atEnd(t, () => user.disconnect());
    await user.drain();
    for (let round = 0; round < 2; round++) {
      await user.connect();
      const order = await connect(t, server, "order");
      assert.equal(await order.call("user", "echo", round), round);
      await order.disconnect();
      await user.drain();
      await user.disconnect();
      await user.drain();
    }
  });

  test("rejects with TIMEOUT when it takes too long, and can be waited for again", async (t) => {
    const server = await startGateway(t);
    const { user, calls, release } = await withHeld(t, server);
    assert.equal(await codeOf(user.drain({ timeout: 20 })), "TIMEOUT");
    const again = user.drain();
    release();
    await again;
    assert.deepEqual(await Promise.all(calls), [0, 1, 2]);
  });

  test("ends when the client disconnects meanwhile", async (t) => {
    const server = await startGateway(t);
    const { user, calls } = await withHeld(t, server);
    const drained = user.drain().catch(({ code }) => code);
    await user.disconnect();
    assert.ok([undefined, "TIMEOUT"].includes(await drained));
    for (const call of calls) assert.equal(await codeOf(call), "SHUTTING_DOWN");
  });

  test("waits for notifications too", async (t) => {
    const server = await startGateway(t);
    const { user, order, release } = await withHeld(t, server, 0);
    await order.notify("user", "hold", 1);
    await until(() => user.stats().requestsInWork === 1);
    const drained = user.drain();
    assert.equal(await isSettled(drained, order), false);
    release();
    await drained;
  });

  test("refuses times that make no sense", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user");
    for (const timeout of [0, -1, Number.NaN, "1"]) {
      assert.equal(await codeOf(user.drain({ timeout })), "INVALID_ARGUMENT");
    }
  });

  for (const [name, start, config] of [
    ["an old gateway", (t) => oldGateway(t), {}],
    ["protocol 1", async (t) => (await startGateway(t)).getStatus().socketPath, { protocol: 1 }],
  ]) {
    test(`with ${name} only waits for what is in work`, async (t) => {
      const path = await start(t);
      const { user, order, calls, release } = await withHeld(t, path, 3, config);
      const drained = user.drain();
      assert.equal(await order.call("user", "echo", 1), 1);
      release();
      assert.deepEqual(await Promise.all(calls), [0, 1, 2]);
      await drained;
    });
  }
});

async function oldGateway(t) {
  const gateway = await new OldGateway(freePath(t)).start();
  atEnd(t, () => gateway.stop());
  return gateway.path;
}

describe("disconnect()", () => {
  test("with drain: true answers everything first", async (t) => {
    const server = await startGateway(t);
    const { user, calls, signals, release } = await withHeld(t, server);
    const disconnected = user.disconnect({ drain: true });
    await until(() => !server.isServiceConnected("user") || user.isConnected());
    release();
    await disconnected;
    assert.deepEqual(await Promise.all(calls), [0, 1, 2]);
    assert.ok(signals.every(({ aborted }) => !aborted));
    assert.equal(user.isConnected(), false);
  });

  test("with a number ends what is not finished by then", async (t) => {
    const server = await startGateway(t);
    const { user, calls, signals } = await withHeld(t, server);
    await user.disconnect({ drain: 30 });
    assert.equal(user.isConnected(), false);
    for (const call of calls) assert.equal(await codeOf(call), "SHUTTING_DOWN");
    for (const { reason } of signals) assert.equal(reason.code, "SHUTTING_DOWN");
  });

  for (const options of [undefined, {}, { drain: false }, { drain: 0 }, "SIGTERM", null]) {
    test(`with ${JSON.stringify(options)} ends everything at once`, async (t) => {
      const server = await startGateway(t);
      const { user, calls } = await withHeld(t, server);
      await user.disconnect(options);
      for (const call of calls) assert.equal(await codeOf(call), "SHUTTING_DOWN");
    });
  }

  test("refuses what is no time, and stays", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user");
    assert.equal(await codeOf(user.disconnect({ drain: "soon" })), "INVALID_ARGUMENT");
    assert.ok(user.isConnected());
  });

  test("the client comes back as if nothing had been", async (t) => {
    const server = await startGateway(t);
    const { user, order, release } = await withHeld(t, server, 0);
    await user.disconnect({ drain: true });
    release();
    await user.connect();
    assert.equal(await order.call("user", "echo", 1), 1);
  });
});

describe("gateway-draining", () => {
  test("is told when the gateway is about to stop, before it is gone", async (t) => {
    const server = await startGateway(t);
    const { order, calls, release } = await withHeld(t, server, 1);
    const events = [];
    order.on("gateway-draining", () => events.push("draining"));
    order.on("disconnected", () => events.push("disconnected"));
    const draining = next(order, "gateway-draining");
    const gone = next(order, "disconnected");
    const stopped = server.stop();
    assert.deepEqual(await draining, []);
    assert.equal(await codeOf(order.call("user", "echo", 1)), "SHUTTING_DOWN");
    release();
    assert.equal(await calls[0], 0);
    await stopped;
    await gone;
    assert.deepEqual(events, ["draining", "disconnected"]);
  });

  test("is told once to a client with a pool, and not in version 1", async (t) => {
    const server = await startGateway(t);
    const pooled = await connect(t, server, "pooled", {}, { poolSize: 3, autoReconnect: false });
    const old = await connect(t, server, "old", {}, { protocol: 1, autoReconnect: false });
    const told = [pooled, old].map((client) => collect(client, "gateway-draining"));
    const gone = [next(pooled, "disconnected"), next(old, "disconnected")];
    await server.stop();
    await Promise.all(gone);
    assert.deepEqual(
      told.map(({ length }) => length),
      [1, 0],
    );
  });
});
