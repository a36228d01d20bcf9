// Calls without answer.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { IPCClient } from "ipc-bro";
import {
  atEnd,
  codeOf,
  collect,
  connect,
  freePath,
  MIXES,
  pathOf,
  startGateway,
  TIMEOUTS,
  until,
} from "./support/ipc.mjs";
import { OldGateway } from "./support/old-gateway.mjs";
import { OldProgram } from "./support/old-program.mjs";

/** A service "audit" that keeps what it is told. */
async function withAudit(t, gateway, config) {
  const heard = [];
  const methods = {
    record: (value, context) => {
      heard.push([value, context]);
      return "not for anybody";
    },
    fail: () => Promise.reject(new Error("mine")),
    unsendable: () => {
      const cycle = {};
      cycle.self = cycle;
      return cycle;
    },
  };
  return { heard, audit: await connect(t, gateway, "audit", methods, config) };
}

for (const { caller, callee, name } of MIXES) {
  test(`a notification arrives like a call, ${name}`, async (t) => {
    const server = await startGateway(t);
    const { heard } = await withAudit(t, server, { serializer: callee });
    const order = await connect(t, server, "order", {}, { serializer: caller });
    const values = [{ line: "placed", n: 1 }, [1, 2], "text", null, undefined, 7, "x".repeat(100_000)];
    for (const value of values) assert.equal(await order.notify("audit", "record", value), undefined);
    await until(() => heard.length === values.length);
    assert.deepEqual(
      heard.map(([value]) => value),
      values,
    );
    for (const [, { chain, depth }] of heard) assert.deepEqual([chain, depth], [["order", "audit"], 2]);
    assert.deepEqual([order.stats().notifications, order.stats().calls], [values.length, 0]);
    assert.equal(order.getStatus().pendingRequests, 0);
  });
}

test("ten thousand arrive in their order", async (t) => {
  // Where a lane is opened meanwhile, what comes later may overtake.
  const server = await startGateway(t, { lanes: "off" });
  const { heard } = await withAudit(t, server);
  const order = await connect(t, server, "order");
  const all = Array.from({ length: 10_000 }, (_, n) => order.notify("audit", "record", { n }));
  await Promise.all(all);
  await until(() => heard.length === all.length);
  assert.ok(heard.every(([{ n }], at) => n === at));
  assert.equal(server.stats().counters.notificationsRouted, all.length);
});

test("nobody is told what the handler returns or throws", async (t) => {
  const server = await startGateway(t);
  const { audit } = await withAudit(t, server);
  const executed = collect(audit, "method-executed");
  const log = collect(audit, "log");
  const order = await connect(t, server, "order");
  const received = collect(order, "response-received");
  for (const method of ["record", "fail", "unsendable"]) await order.notify("audit", method, 1);
  await until(() => executed.length === 3);
  const told = executed.map(({ method, success, error }) => [method, success, error]);
  assert.deepEqual(told.sort(), [
    ["fail", false, "mine"],
    ["record", true, undefined],
    ["unsendable", true, undefined],
  ]);
  assert.ok(log.some(({ message, data }) => message === "notification failed" && data.error === "mine"));
  assert.deepEqual([received, order.stats().lateAnswers, audit.stats().requestsInWork], [[], 0, 0]);
});

test("that nobody can take it is not told", async (t) => {
  const server = await startGateway(t);
  await withAudit(t, server);
  const order = await connect(t, server, "order");
  await order.notify("nobody", "record", 1);
  await order.notify("audit", "missing", 1);
  await until(() => server.stats().counters.notificationsDropped === 1);
  assert.ok(order.isConnected());
});

describe("this side's errors are told:", () => {
  const context = { root: "root-1-abc000", chain: ["order"], depth: 1, deadline: Date.now() - 1000 };
  const cycle = {};
  cycle.self = cycle;
  const cases = {
    CANCELLED: (order) => order.notify("audit", "record", 1, { signal: AbortSignal.abort() }),
    SERIALIZATION_FAILED: (order) => order.notify("audit", "record", cycle),
    DEADLINE_EXCEEDED: (order) => order.notify("audit", "record", 1, { context }),
    MAX_DEPTH_EXCEEDED: (order) =>
      order.notify("audit", "record", 1, { ...context, depth: 200, deadline: Date.now() + 9000 }),
    PAYLOAD_TOO_LARGE: (order) => order.notify("audit", "record", "x".repeat(33 * 1024 * 1024)),
    INVALID_ARGUMENT: (order) => order.notify("", "record", 1),
    NOT_CONNECTED: async (order) => (await order.disconnect(), await order.notify("audit", "record", 1)),
  };
  for (const [code, notify] of Object.entries(cases)) {
    test(code, async (t) => {
      const server = await startGateway(t);
      const { heard } = await withAudit(t, server);
      const order = await connect(t, server, "order");
      const received = collect(order, "response-received");
      assert.equal(await codeOf(notify(order)), code);
      if (order.isConnected()) {
        await order.notify("audit", "record", "after");
        await until(() => heard.length > 0);
      }
      assert.deepEqual(
        heard.map(([value]) => value),
        order.isConnected() ? ["after"] : [],
      );
      assert.equal(order.getStatus().pendingRequests, 0);
      assert.deepEqual(received, []);
    });
  }

  test("NOT_CONNECTED of a client that never was", async () => {
    assert.equal(await codeOf(new IPCClient({ serviceName: "x" }).notify("a", "b")), "NOT_CONNECTED");
  });
});

test("a notification of a handler continues its chain", async (t) => {
  const server = await startGateway(t);
  const { heard } = await withAudit(t, server);
  const user = await connect(t, server, "user", {
    find: async (_, { root }) => (await user.notify("audit", "record", "found"), root),
  });
  const order = await connect(t, server, "order");
  const root = await order.call("user", "find", null);
  await until(() => heard.length === 1);
  assert.deepEqual([heard[0][1].root, heard[0][1].chain], [root, ["order", "user", "audit"]]);
});

test("its handler is stopped at its deadline", async (t) => {
  const server = await startGateway(t);
  let begun = 0;
  let reason;
  await connect(t, server, "audit", {
    echo: (value) => value,
    slow: (_, { signal }) =>
      new Promise((resolve) => {
        begun += 1;
        signal.addEventListener("abort", () => {
          reason = signal.reason;
          resolve();
        });
      }),
  });
  const order = await connect(t, server, "order");
  for (const timeout of TIMEOUTS) {
    await order.notify("audit", "slow", null, { timeout });
    // What was sent before has arrived with the call, unless its time was over.
    await order.call("audit", "echo", 1);
    if (begun > 0) break;
  }
  await until(() => reason);
  assert.equal(reason.code, "TIMEOUT");
});

test("a façade sends notifications", async (t) => {
  const server = await startGateway(t);
  const { heard } = await withAudit(t, server);
  const order = await connect(t, server, "order");
  const audit = order.notifier("audit");
  assert.equal(await audit.record({ line: 1 }), undefined);
  assert.equal(audit.record, audit.record);
  assert.equal(await audit, audit);
  assert.equal(await codeOf(audit.record(1, { signal: AbortSignal.abort() })), "CANCELLED");
  await until(() => heard.length === 1);
  assert.deepEqual(heard[0][0], { line: 1 });
});

describe("version 1", () => {
  test("an old program gets a call, and its answer is dropped", async (t) => {
    const server = await startGateway(t);
    const methods = { record: () => "answer", fail: () => Promise.reject(new Error("mine")), echo: (n) => n };
    const old = new OldProgram({ path: pathOf(server), name: "old", methods });
    atEnd(t, () => old.close());
    await old.connect();
    const order = await connect(t, server, "order");
    await order.notify("old", "record", { n: 1 });
    await order.notify("old", "fail", 2);
    assert.equal(await order.call("old", "echo", 3), 3);
    const seen = old.received.map(({ from, method, params }) => [from, method, params]);
    assert.deepEqual(seen, [
      ["order", "record", { n: 1 }],
      ["order", "fail", 2],
      ["order", "echo", 3],
    ]);
    assert.equal(order.stats().lateAnswers, 0);
  });

  for (const [name, gateway, config] of [
    ["an old gateway", async (t) => (await oldGateway(t)).path, {}],
    ["our gateway, by clients with protocol 1", (t) => startGateway(t), { protocol: 1 }],
  ]) {
    test(`${name} carries it as a call, and nothing comes of the answer`, async (t) => {
      const at = await gateway(t);
      const { heard, audit } = await withAudit(t, at, config);
      const order = await connect(t, at, "order", {}, config);
      const received = collect(order, "response-received");
      await order.notify("audit", "record", 5);
      await order.notify("audit", "fail", 6);
      await until(() => heard.length === 1 && audit.stats().requests === 2 && audit.stats().requestsInWork === 0);
      assert.equal(await codeOf(order.call("audit", "missing", null)), "METHOD_NOT_FOUND");
      assert.deepEqual([received.length, order.stats().lateAnswers], [1, 0]);
    });
  }
});

async function oldGateway(t) {
  const gateway = await new OldGateway(freePath(t)).start();
  atEnd(t, () => gateway.stop());
  return gateway;
}
