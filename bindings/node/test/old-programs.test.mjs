// Programs on the old JavaScript library against our gateway, among themselves and with our clients: wire-v1, section 4.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  atEnd,
  codeOf,
  collect,
  connect,
  freePath,
  MIXES,
  next,
  pathOf,
  rejection,
  sleep,
  startGateway,
  until,
} from "./support/ipc.mjs";
import { OldProgram } from "./support/old-program.mjs";

async function join(t, gateway, name, options = {}) {
  const old = new OldProgram({ path: pathOf(gateway), name, ...options });
  atEnd(t, () => old.close());
  return await old.connect();
}

for (const mix of MIXES) {
  describe(`old programs, ${mix.name}`, () => {
    test("call each other through our gateway", async (t) => {
      const server = await startGateway(t);
      const user = await join(t, server, "user", {
        encoding: mix.callee,
        methods: { find: ({ id }) => ({ id, tags: ["a"] }) },
      });
      const order = await join(t, server, "order", { encoding: mix.caller });
      assert.deepEqual(await order.call("user", "find", { id: 7 }), { id: 7, tags: ["a"] });
      assert.deepEqual([user.received[0].from, user.received[0].to], ["order", "user"]);
      assert.deepEqual(server.getConnectedServices().sort(), ["order", "user"]);
    });

    test("call our client", async (t) => {
      const server = await startGateway(t);
      await connect(t, server, "user", { find: ({ id }) => ({ id }) }, { serializer: mix.callee });
      const order = await join(t, server, "order", { encoding: mix.caller });
      assert.deepEqual(await order.call("user", "find", { id: 7 }), { id: 7 });
      const error = await rejection(order.call("user", "missing", {}));
      assert.equal(error.code, "METHOD_NOT_FOUND");
    });

    test("are called by our client, which sees their errors with code and stack", async (t) => {
      const server = await startGateway(t);
      await join(t, server, "user", {
        encoding: mix.callee,
        methods: {
          find: ({ id }) => ({ id }),
          fail: () => {
            throw Object.assign(new Error("not yours"), { code: "FORBIDDEN" });
          },
        },
      });
      const order = await connect(t, server, "order", {}, { serializer: mix.caller });
      assert.deepEqual(await order.call("user", "find", { id: 7 }), { id: 7 });
      const error = await rejection(order.call("user", "fail", {}));
      assert.deepEqual([error.code, error.message], ["FORBIDDEN", "not yours"]);
      assert.match(JSON.stringify(error.details), /old-programs\.test/);
    });

    test("pooled ones call and are called over all of their connections", async (t) => {
      const server = await startGateway(t);
      const user = await join(t, server, "user", { encoding: mix.callee, poolSize: 3, methods: { find: (n) => n } });
      const order = await join(t, server, "order", { encoding: mix.caller, poolSize: 2 });
      const results = await Promise.all(Array.from({ length: 30 }, (_, n) => order.call("user", "find", n)));
      assert.deepEqual(
        results,
        Array.from({ length: 30 }, (_, n) => n),
      );
      assert.equal(user.received.length, 30);
    });

    test("chains that they send are carried as they are", async (t) => {
      const server = await startGateway(t);
      const seen = [];
      await connect(t, server, "user", { find: (_, context) => void seen.push(context) }, { serializer: mix.callee });
      const order = await join(t, server, "order", { encoding: mix.caller });
      const context = order.newContext();
      await order.call("user", "find", {}, { context });
      // Between peers of version 2 the time that is left travels, in whole milliseconds.
      const [{ deadline, ...others }] = seen;
      assert.ok(Math.abs(deadline - context.deadline) < 10_000);
      assert.deepEqual({ ...others, deadline: context.deadline }, context);
      assert.deepEqual(context.chain, ["order", "order"]);
    });
  });
}

describe("wire-v1 section 4: the gateway", () => {
  test("answers at once for a service that is not there", async (t) => {
    const server = await startGateway(t);
    const old = await join(t, server, "order", { timeout: 600_000 });
    assert.equal(await codeOf(old.call("nobody", "find", {})), "SERVICE_NOT_FOUND");
  });

  test("answers at once when the deadline has passed or the chain is too deep", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { find: () => 1 });
    const old = await join(t, server, "order", { timeout: 600_000 });
    const context = old.newContext();
    const late = { ...context, deadline: Date.now() - 1000 };
    assert.equal(await codeOf(old.call("user", "find", {}, { context: late })), "DEADLINE_EXCEEDED");
    const deep = { ...context, depth: 101 };
    assert.equal(await codeOf(old.call("user", "find", {}, { context: deep })), "MAX_DEPTH_EXCEEDED");
    const broken = { ...context, chain: "order" };
    assert.equal(await codeOf(old.call("user", "find", {}, { context: broken })), "INVALID_CONTEXT");
  });

  test("fails calls in flight when their callee dies", async (t) => {
    const server = await startGateway(t);
    const callee = await join(t, server, "user", { methods: { never: () => new Promise(() => {}) } });
    const old = await join(t, server, "order", { timeout: 600_000 });
    const ours = await connect(t, server, "cart", {}, { timeout: 600_000 });
    const calls = [old.call("user", "never", {}), ours.call("user", "never", {})].map(codeOf);
    await until(() => callee.received.length === 2);
    callee.close();
    assert.deepEqual(await Promise.all(calls), ["CONNECTION_LOST", "CONNECTION_LOST"]);
  });

  test("stamps `from` with the name of the caller", async (t) => {
    const server = await startGateway(t);
    const callee = await join(t, server, "user", { methods: { find: () => 1 } });
    const liar = await join(t, server, "liar");
    await liar.call("user", "find", {}, { from: "admin" });
    assert.equal(callee.received[0].from, "liar");
  });

  test("takes an answer only from the connection that the call went to", async (t) => {
    const server = await startGateway(t);
    let answer;
    const callee = await join(t, server, "user", {
      methods: { find: () => new Promise((resolve) => (answer = resolve)) },
    });
    const thief = await join(t, server, "thief");
    const order = await join(t, server, "order");
    const call = order.call("user", "find", {});
    await until(() => callee.received.length === 1);
    const { id } = callee.received[0];
    thief.send({ type: "RESPONSE", id, from: "user", to: "order", status: "success", data: "forged" });
    await sleep(50);
    answer("real");
    assert.equal(await call, "real");
  });

  test("ids that two callers share end at their own caller each", async (t) => {
    const server = await startGateway(t);
    await join(t, server, "user", { methods: { who: async (name) => (await sleep(20), name) } });
    const [a, b] = [await join(t, server, "a"), await join(t, server, "b")];
    const id = "req-1-aaaaaa";
    const results = await Promise.all([a.call("user", "who", "a", { id }), b.call("user", "who", "b", { id })]);
    assert.deepEqual(results, ["a", "b"]);
  });

  test("every connection of a pool is a full member: it lives until its last one goes", async (t) => {
    const server = await startGateway(t);
    const user = await join(t, server, "user", { poolSize: 3, methods: { find: (n) => n } });
    const order = await join(t, server, "order", { poolSize: 2 });
    user.drop(0);
    order.drop(0);
    await until(() => server.getService("user").socket.connections === 2);
    await until(() => server.getService("order").socket.connections === 1);
    for (let n = 0; n < 10; n++) assert.equal(await order.call("user", "find", n), n);
    user.drop(1);
    user.drop(2);
    await until(() => !server.isServiceConnected("user"));
    assert.equal(await codeOf(order.call("user", "find", 1)), "SERVICE_NOT_FOUND");
  });

  test("a pooled program that spreads its heartbeats stays", async (t) => {
    const server = await startGateway(t, { heartbeatInterval: 600 });
    await join(t, server, "user", { poolSize: 4, heartbeatInterval: 100 });
    const gone = collect(server, "service-disconnected");
    await sleep(2500);
    assert.deepEqual(gone, []);
  });

  test("a duplicate name gets an ERROR without id, and the end of its connection", async (t) => {
    const server = await startGateway(t);
    await join(t, server, "order");
    const second = new OldProgram({ path: pathOf(server), name: "order" });
    atEnd(t, () => second.close());
    const closed = next(second, "close");
    const { frame } = await rejection(second.connect());
    assert.deepEqual([frame.type, frame.error.code, "id" in frame], ["ERROR", "DUPLICATE_SERVICE", false]);
    assert.equal(typeof frame.timestamp, "number");
    await closed;
    assert.ok(server.isServiceConnected("order"));
  });

  test("REGISTER_ACK has nothing that old programs would stumble over, and HEARTBEAT is never answered", async (t) => {
    const server = await startGateway(t);
    const old = new OldProgram({ path: pathOf(server), name: "order", heartbeatInterval: 10 });
    atEnd(t, () => old.close());
    const acks = collect(old, "REGISTER_ACK");
    await old.connect();
    const others = ["HEARTBEAT", "ERROR", "RESPONSE"].map((type) => collect(old, type));
    await sleep(100);
    assert.deepEqual(acks, [{ type: "REGISTER_ACK", from: "bro.gateway" }]);
    assert.deepEqual(others, [[], [], []]);
  });

  test("unknown message types are ignored", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { find: () => 1 });
    const old = await join(t, server, "order");
    old.send({ type: "SUBSCRIBE", topic: "x" });
    assert.equal(await old.call("user", "find", {}), 1);
  });

  test("concurrent handlers of an old program mix their chains up, and calls still end right", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "role", { of: (name) => `role of ${name}` });
    const user = await join(t, server, "user", {
      methods: { find: async (name) => (await sleep(5), await user.call("role", "of", name)) },
    });
    const order = await connect(t, server, "order");
    const results = await Promise.all(["a", "b", "c"].map((name) => order.call("user", "find", name)));
    assert.deepEqual(results, ["role of a", "role of b", "role of c"]);
  });
});

test("an old program comes back after our gateway was restarted", async (t) => {
  const path = freePath(t);
  const server = await startGateway(t, { socketPath: path });
  await join(t, server, "order");
  await server.stop();
  await server.start();
  await join(t, server, "order");
  assert.deepEqual(server.getConnectedServices(), ["order"]);
});
