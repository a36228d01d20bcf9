// `context.caller`: the name by which the gateway knows the caller, whatever that says of itself.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { currentContext, IPCUtils } from "ipc-bro";
import { program } from "./support/children.mjs";
import { atEnd, codeOf, collect, connect, freePath, MIXES, next, pathOf, startGateway, until } from "./support/ipc.mjs";
import { laned, settle, startBroGateway, statusOf } from "./support/lanes.mjs";
import { OldGateway } from "./support/old-gateway.mjs";
import { OldProgram } from "./support/old-program.mjs";
import { rawPeer } from "./support/raw-peer.mjs";

const FIELDS = ["root", "chain", "depth", "deadline"];
const who = (_, { caller }) => caller;

for (const { caller, callee, name } of MIXES) {
  for (const [callerSpeaks, calleeSpeaks] of [
    ["auto", "auto"],
    ["auto", 1],
    [1, "auto"],
    [1, 1],
  ]) {
    test(`is the name of the caller: ${name}, protocol ${callerSpeaks} to ${calleeSpeaks}`, async (t) => {
      const server = await startGateway(t);
      const noted = [];
      const methods = { who, pass: () => user.call("role", "who"), note: (_, context) => noted.push(context.caller) };
      const user = await connect(t, server, "user", methods, { serializer: callee, protocol: calleeSpeaks });
      await connect(t, server, "role", { who }, { serializer: caller, protocol: callerSpeaks });
      const config = { serializer: caller, protocol: callerSpeaks };
      const [order, web] = [await connect(t, server, "order", {}, config), await connect(t, server, "wéb", {}, config)];
      for (let n = 0; n < 20; n++) {
        const calls = [order, web, order].map((client) => client.call("user", "who"));
        assert.deepEqual(await Promise.all(calls), ["order", "wéb", "order"]);
      }
      assert.equal(await order.call("user", "pass"), "user");
      await web.notify("user", "note");
      await until(() => noted.length === 1);
      assert.deepEqual(noted, ["wéb"]);
    });
  }
}

describe("it is the gateway's word:", () => {
  /** What a handler sees of a caller, by every way to it. */
  const look = (_, context) => {
    const { caller } = context;
    const shown = currentContext();
    const copy = { ...context };
    return [
      caller,
      shown.caller,
      copy.caller ?? null,
      Object.keys(context),
      JSON.parse(JSON.stringify(context)).caller ?? null,
    ];
  };
  const isOrder = ["order", "order", null, FIELDS, null];

  for (const encoding of ["json", "msgpack"]) {
    for (const protocol of ["auto", 1]) {
      test(`a program of version 1 (${encoding}) that calls itself admin, to a callee of protocol ${protocol}`, async (t) => {
        const server = await startGateway(t);
        await connect(t, server, "user", { look, who }, { protocol, serializer: encoding });
        const old = new OldProgram({ path: pathOf(server), name: "order", encoding });
        atEnd(t, () => old.close());
        await old.connect();
        const forged = { ...old.newContext(), chain: ["admin", "user"], caller: "admin", from: "admin", request: 1 };
        const proto = JSON.parse('{"caller": "admin"}');
        for (const context of [
          forged,
          { ...forged, ["__proto__"]: proto },
          { ...forged, caller: { toString: "admin" } },
        ]) {
          for (let n = 0; n < 10; n++) {
            const more = { context, from: "admin", caller: "admin" };
            const seen = await old.call("user", "look", { caller: "admin" }, more);
            assert.deepEqual(seen.slice(0, 3), isOrder.slice(0, 3));
            assert.equal(seen[3].includes("caller"), false);
            assert.equal(seen[4], null);
            assert.equal(await old.call("user", "who", null, more), "order");
          }
        }
      });
    }
  }

  test("our own client that continues the chain of somebody else", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { look, chain: (_, { chain }) => chain });
    for (const protocol of ["auto", 1]) {
      const order = await connect(t, server, "order", {}, { protocol });
      const context = { ...IPCUtils.createContext("admin"), caller: "admin", from: "admin" };
      assert.deepEqual((await order.call("user", "chain", null, { context }))[0], "admin");
      assert.deepEqual(await order.call("user", "look", null, { context }), isOrder);
      assert.deepEqual(await order.call("user", "look", null, context), isOrder);
      await order.disconnect();
    }
  });

  test("a peer of version 2 that tells the gateway a name", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { who });
    // NAME, number 0: only gateways may say that.
    const socket = await rawPeer(pathOf(server), "order", [], () => {});
    const closed = next(socket, "close");
    socket.write(Buffer.from("00000011b2080000000000000000000061646d696e", "hex"));
    await closed;
    await until(() => !server.isServiceConnected("order"));
    assert.deepEqual(server.getConnectedServices(), ["user"]);
  });

  test("what listeners of call-routed see of a context has no caller", async (t) => {
    const server = await startGateway(t);
    const routed = collect(server, "call-routed");
    // To callees of version 2 nothing but the four fields goes.
    await connect(t, server, "user", { who }, { protocol: 1 });
    const old = new OldProgram({ path: pathOf(server), name: "order" });
    atEnd(t, () => old.close());
    await old.connect();
    const context = { ...old.newContext(), caller: "admin", signal: { aborted: true }, trace: "kept" };
    assert.equal(await old.call("user", "who", null, { context, from: "admin" }), "order");
    await until(() => routed.length === 1);
    const [{ from, context: shown }] = routed;
    assert.deepEqual([from, shown.caller, shown.signal, shown.trace], ["order", undefined, undefined, "kept"]);
  });
});

for (const encoding of ["json", "msgpack"]) {
  test(`a gateway of the old library does not see to it (${encoding}): it is undefined`, async (t) => {
    const gateway = await new OldGateway(freePath(t), { encoding }).start();
    atEnd(t, () => gateway.stop());
    const called = [];
    const seen = (_, context) => {
      called.push(context.caller);
      return [typeof context.caller, "caller" in context, context.chain];
    };
    await connect(t, gateway.path, "user", { seen }, { serializer: encoding });
    const order = await connect(t, gateway.path, "order", {}, { serializer: encoding });
    assert.deepEqual(await order.call("user", "seen"), ["undefined", true, ["order", "user"]]);
    const old = new OldProgram({ path: gateway.path, name: "old", encoding });
    atEnd(t, () => old.close());
    await old.connect();
    const context = { ...old.newContext(), caller: "admin" };
    // Such a gateway sends the answer to whoever the caller says it is.
    await connect(t, gateway.path, "admin", {}, { serializer: encoding });
    old.call("user", "seen", null, { context, from: "admin" }).catch(() => {});
    await until(() => called.length === 2);
    assert.deepEqual(called, [undefined, undefined]);
  });
}

test("on a lane it is who is at its other end, both ways, and when the gateway is gone", async (t) => {
  const { gateway, order } = await laned(t, { methods: { who } });
  const ask = async () => [
    await order.call("user", "who"),
    await order.call("user", "forward", { service: "order", method: "who" }),
  ];
  const before = await statusOf(order);
  for (let n = 0; n < 50; n++) assert.deepEqual(await ask(), ["order", "user"]);
  assert.equal((await statusOf(order)).callsRouted, before.callsRouted, "nothing passed the gateway");
  await gateway.stop();
  assert.deepEqual(await ask(), ["order", "user"]);
});

test("on a lane and beside it at once", async (t) => {
  const gateway = await startBroGateway(t, freePath(t));
  const user = await connect(t, gateway.path, "user", { who, echo: (value) => value });
  const order = await connect(t, gateway.path, "order", {});
  const other = await connect(t, gateway.path, "other", {}, { lanes: false });
  await settle(order, "user");
  for (let n = 0; n < 50; n++) {
    const calls = [order, other, order, other].map((client) => client.call("user", "who"));
    assert.deepEqual(await Promise.all(calls), ["order", "other", "order", "other"]);
  }
  assert.ok(user.stats().lanes > 0);
});

test("in a worker", async (t) => {
  const server = await startGateway(t);
  const main = await connect(t, server, "main", { echo: (value) => value });
  const worker = new Worker(program("worker.mjs"), { workerData: { path: pathOf(server), name: "w", calls: -1 } });
  atEnd(t, () => worker.terminate());
  await next(worker, "message");
  const other = await connect(t, server, "other");
  for (const client of [main, other, main]) {
    assert.equal(await client.call("w", "who"), client === main ? "main" : "other");
  }
});

test("it stays when the call has ended, and is there for who asks for it only then", async (t) => {
  const server = await startGateway(t);
  const contexts = [];
  const later = [];
  const keep = (_, context) => {
    contexts.push(context);
    later.push(new Promise((resolve) => setImmediate(resolve)).then(() => currentContext().caller));
  };
  const user = await connect(t, server, "user", {
    keep,
    hang: (_, context) => (keep(_, context), new Promise(() => {})),
  });
  const order = await connect(t, server, "order");
  await order.call("user", "keep");
  const control = new AbortController();
  const hangs = codeOf(order.call("user", "hang", null, { signal: control.signal }));
  await until(() => contexts.length === 2);
  control.abort();
  assert.equal(await hangs, "CANCELLED");
  await next(contexts[1].signal, "abort").catch(() => {});
  await order.disconnect();
  await user.disconnect();
  assert.deepEqual(
    contexts.map((context) => context.caller),
    ["order", "order"],
  );
  assert.deepEqual(await Promise.all(later), ["order", "order"]);
});

test("names are told right after more callers than a client keeps numbers of", async (t) => {
  const server = await startGateway(t);
  const held = [];
  await connect(t, server, "user", { who: (name, context) => (held.push([name, context]), context.caller) });
  // More than 4096.
  for (let n = 0; n < 4200; ) {
    const batch = Array.from({ length: 60 }, () => `caller-${n++}`);
    const clients = await Promise.all(batch.map((name) => connect(t, server, name)));
    assert.deepEqual(await Promise.all(clients.map((client, at) => client.call("user", "who", batch[at]))), batch);
    await Promise.all(clients.map((client) => client.disconnect()));
  }
  for (const [name, { caller }] of held) assert.equal(caller, name);
});

describe("a handler gets at it, however it is written:", () => {
  const inner = (_, context) => context.caller;
  const handlers = {
    "an arrow": inner,
    "optional chaining": (_, context) => context?.caller,
    "a computed name": (_, context) => context[["cal", "ler"].join("")],
    "a pattern": (_, { caller }) => caller,
    "a pattern with another name": async (_, { chain, caller: from }) => chain && from,
    "a pattern with a default": (_, { caller = "nobody" }) => caller,
    "rest parameters": (...args) => args[1].caller,
    "a bound function": inner.bind(null),
    "a proxy": new Proxy(inner, {}),
    "handing the context on": (_, context) => inner(_, context),
    "beside the signal": (_, context) => context.signal.aborted === false && context.caller,
    "beside the signal, in a pattern": (_, { signal, caller }) => signal.aborted === false && caller,
    "the signal alone, and currentContext()": (_, { signal }) =>
      signal === currentContext().signal && currentContext().caller,
    "the caller alone, and the signal of currentContext()": (_, context) =>
      currentContext().signal.aborted === false && context.caller,
    "fields alone, and currentContext()": (_, context) => context.depth === 2 && currentContext().caller,
    "a name with a dollar": (_, $c) => $c.caller,
    "a comment in front": (_, /* of the call */ context) => context.caller,
    "an escaped name": new Function("return (_, context) => context.c\\u0061ller")(),
  };
  for (const [name, handler] of Object.entries(handlers)) {
    test(name, async (t) => {
      const server = await startGateway(t);
      await connect(t, server, "user", { find: handler });
      const order = await connect(t, server, "order");
      for (let n = 0; n < 3; n++) assert.equal(await order.call("user", "find"), "order");
    });
  }

  test("and contexts are given no more than that", async (t) => {
    const server = await startGateway(t);
    const shown = (context) => ["signal", "caller"].filter((name) => Object.hasOwn(context, name));
    const see = {
      fields: (_, context) => context.depth && context.chain,
      signal: (_, context) => context.signal && context.chain,
      caller: (_, context) => context.caller && context.chain,
      all: (_, context) => shown(context),
    };
    const seen = {};
    await connect(t, server, "user", see);
    const order = await connect(t, server, "order");
    const define = Object.defineProperty;
    for (const method of Object.keys(see)) {
      const names = new Set();
      Object.defineProperty = (object, name, descriptor) => (names.add(name), define(object, name, descriptor));
      await order.call("user", method).finally(() => {
        Object.defineProperty = define;
      });
      seen[method] = ["signal", "caller"].filter((name) => names.has(name));
    }
    assert.deepEqual(seen, { fields: [], signal: ["signal"], caller: ["caller"], all: ["signal", "caller"] });
  });
});

test("without context tracking it is in the handler's context", async (t) => {
  const server = await startGateway(t);
  await connect(t, server, "user", { who, none: () => typeof currentContext() }, { contextTracking: false });
  const order = await connect(t, server, "order");
  assert.equal(await order.call("user", "who"), "order");
  assert.equal(await order.call("user", "none"), "undefined");
});

test("contexts outside of handlers have none", () => {
  assert.equal(IPCUtils.createContext("order").caller, undefined);
  assert.equal(IPCUtils.extendContext(IPCUtils.createContext("order"), "user").caller, undefined);
  assert.equal(currentContext(), undefined);
});
