// The context of a call follows each task, wherever the task goes.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { readFile } from "node:fs/promises";
import { describe, test } from "node:test";
import { setTimeout as timer } from "node:timers/promises";
import { currentContext, IPCUtils } from "ipc-bro";
import { atEnd, codeOf, connect, MIXES, pathOf, rejection, startGateway, until } from "./support/ipc.mjs";
import { OldProgram } from "./support/old-program.mjs";

/** A gateway with "role", which answers with the context that it sees. */
async function withRole(t, serializer) {
  const server = await startGateway(t);
  await connect(t, server, "role", { context: (_, context) => context }, { serializer });
  return server;
}

/** Calls `user.find` as "order", whose handler is `find(role)`; `role()` makes the nested call. */
async function nested(t, find, config = {}) {
  const server = await withRole(t);
  const user = await connect(t, server, "user", { find: () => find(() => user.call("role", "context", null)) }, config);
  const order = await connect(t, server, "order");
  return await order.call("user", "find", null);
}

const EXPECTED = ["order", "user", "role"];

describe("a nested call extends the context of its handler", () => {
  const places = {
    "called directly": (role) => role(),
    "after an await": async (role) => (await null, role()),
    "after a timer": (role) => new Promise((resolve) => setTimeout(() => resolve(role()), 5)),
    "after a promise of a timer": (role) => timer(5).then(role),
    "in setImmediate": (role) => new Promise((resolve) => setImmediate(() => resolve(role()))),
    "in nextTick": (role) => new Promise((resolve) => process.nextTick(() => resolve(role()))),
    "in queueMicrotask": (role) => new Promise((resolve) => queueMicrotask(() => resolve(role()))),
    "after reading a file": async (role) => (await readFile(import.meta.filename ?? new URL(import.meta.url)), role()),
    "in a listener of an event": (role) =>
      new Promise((resolve) => {
        const emitter = new EventEmitter();
        emitter.once("go", () => resolve(role()));
        setTimeout(() => emitter.emit("go"), 1);
      }),
    "in Promise.all": async (role) => (await Promise.all([role(), role()]))[1],
    "after another nested call": async (role) => (await role(), await role()),
    "in an async generator": async (role) => {
      const results = (async function* () {
        yield await role();
      })();
      return (await results.next()).value;
    },
  };
  for (const [name, find] of Object.entries(places)) {
    test(name, async (t) => {
      const context = await nested(t, find);
      assert.deepEqual([context.chain, context.depth], [EXPECTED, 3]);
    });
  }
});

for (const { caller, callee, name } of MIXES) {
  test(`root and deadline are kept along the chain, ${name}`, async (t) => {
    const server = await withRole(t, callee);
    const seen = [];
    const user = await connect(
      t,
      server,
      "user",
      {
        find: async (_, context) => {
          seen.push(context);
          return await user.call("role", "context", null);
        },
      },
      { serializer: caller },
    );
    const order = await connect(t, server, "order", {}, { serializer: callee });
    const last = await order.call("user", "find", null);
    assert.deepEqual([seen[0].chain, seen[0].depth], [["order", "user"], 2]);
    assert.equal(last.root, seen[0].root);
    // The time that is left travels, in whole milliseconds: on the way it grows by what the way takes.
    assert.ok(last.deadline < seen[0].deadline + 1000);
    assert.deepEqual([last.chain, last.depth], [EXPECTED, 3]);
  });
}

test("a nested call has no more time than the call that it serves", async (t) => {
  const server = await withRole(t);
  const user = await connect(
    t,
    server,
    "user",
    { find: () => user.call("role", "context", null) },
    { timeout: 60_000 },
  );
  const order = await connect(t, server, "order", {}, { timeout: 3000 });
  const { deadline } = await order.call("user", "find", null);
  assert.ok(deadline <= Date.now() + 3000, `${deadline - Date.now()}`);
});

test("concurrent handlers do not mix up their chains", async (t) => {
  const server = await withRole(t);
  const user = await connect(t, server, "user", {
    find: async ({ ms }) => {
      await timer(ms);
      const first = await user.call("role", "context", null);
      await timer(ms);
      return [first, await user.call("role", "context", null)];
    },
  });
  const callers = await Promise.all(Array.from({ length: 8 }, (_, n) => connect(t, server, `caller-${n}`)));
  const calls = callers.flatMap((caller, n) =>
    [3, 1, 2].map(async (ms) => [n, await caller.call("user", "find", { ms })]),
  );
  const roots = new Set();
  for (const [n, [first, second]] of await Promise.all(calls)) {
    assert.deepEqual(first.chain, [`caller-${n}`, "user", "role"]);
    assert.deepEqual(second.chain, first.chain);
    assert.equal(second.root, first.root);
    roots.add(first.root);
  }
  assert.equal(roots.size, 24);
});

test("two callers on the old library through one of our handlers at once", async (t) => {
  const server = await withRole(t);
  const user = await connect(t, server, "user", {
    find: async () => (await timer(10), user.call("role", "context", null)),
  });
  const olds = ["a", "b"].map((name) => new OldProgram({ path: pathOf(server), name }));
  for (const old of olds) atEnd(t, () => old.close());
  await Promise.all(olds.map((old) => old.connect()));
  const [a, b] = await Promise.all(olds.map((old) => old.call("user", "find", null)));
  // They put themselves where the callee's name should stand; what they sent is extended as it is.
  assert.deepEqual([a.chain, a.depth], [["a", "a", "role"], 3]);
  assert.deepEqual([b.chain, b.depth], [["b", "b", "role"], 3]);
  assert.notEqual(a.root, b.root);
});

test("calls outside of handlers begin chains of their own", async (t) => {
  const server = await withRole(t);
  const order = await connect(t, server, "order");
  const [a, b] = await Promise.all([order.call("role", "context", null), order.call("role", "context", null)]);
  assert.deepEqual([a.chain, a.depth], [["order", "role"], 2]);
  assert.notEqual(a.root, b.root);
});

test("a call that a handler starts for later has the chain of that handler", async (t) => {
  const server = await withRole(t);
  let later;
  const user = await connect(t, server, "user", {
    find: () => {
      later = timer(30).then(() => user.call("role", "context", null));
      return "answered";
    },
  });
  const order = await connect(t, server, "order");
  assert.equal(await order.call("user", "find", null), "answered");
  const context = await later;
  assert.deepEqual(context.chain, EXPECTED);
});

test("a second client in the same process continues the chain too", async (t) => {
  const server = await withRole(t);
  const other = await connect(t, server, "other");
  await connect(t, server, "user", { find: () => other.call("role", "context", null) });
  const order = await connect(t, server, "order");
  const { chain, depth } = await order.call("user", "find", null);
  assert.equal(chain.at(-1), "role");
  assert.equal(depth, chain.length);
  assert.deepEqual(chain.slice(0, 2), ["order", "user"]);
});

describe("an explicit context", () => {
  test("is extended by the callee, as the fourth argument or among options", async (t) => {
    const server = await withRole(t);
    const order = await connect(t, server, "order");
    const mine = { root: "root-1-mine00", chain: ["web", "order"], depth: 2, deadline: Date.now() + 9000 };
    for (const argument of [mine, { context: mine }]) {
      const seen = await order.call("role", "context", null, argument);
      assert.deepEqual(seen, { ...mine, chain: ["web", "order", "role"], depth: 3, deadline: seen.deadline });
      assert.ok(seen.deadline <= mine.deadline);
    }
  });

  test("a handler may hand on the one it was given", async (t) => {
    const server = await withRole(t);
    const user = await connect(
      t,
      server,
      "user",
      {
        find: (_, context) => user.call("role", "context", null, context),
      },
      { contextTracking: false },
    );
    const order = await connect(t, server, "order");
    assert.deepEqual((await order.call("user", "find", null)).chain, EXPECTED);
  });

  test("of IPCUtils.createContext() works as it does for old programs", async (t) => {
    const server = await withRole(t);
    const order = await connect(t, server, "order");
    const made = IPCUtils.createContext("order", 5000);
    const seen = await order.call("role", "context", null, made);
    assert.deepEqual([seen.root, seen.chain, seen.depth], [made.root, ["order", "role"], 2]);
  });

  test("that is over is refused", async (t) => {
    const server = await withRole(t);
    const order = await connect(t, server, "order");
    const late = { ...IPCUtils.createContext("order"), deadline: Date.now() - 1 };
    assert.equal(await codeOf(order.call("role", "context", null, late)), "DEADLINE_EXCEEDED");
  });

  test("that is too deep is refused", async (t) => {
    const server = await withRole(t);
    const order = await connect(t, server, "order");
    const deep = { ...IPCUtils.createContext("order"), depth: 200 };
    assert.equal(await codeOf(order.call("role", "context", null, deep)), "MAX_DEPTH_EXCEEDED");
  });

  test("that is none is refused", async (t) => {
    const server = await withRole(t);
    const order = await connect(t, server, "order");
    for (const bad of [
      { root: 7, chain: [], depth: 0, deadline: 0 },
      { root: "r", chain: "x", depth: 1, deadline: 1e15 },
    ]) {
      const error = await rejection(order.call("role", "context", null, { context: bad }));
      assert.ok(["INVALID_CONTEXT", "INVALID_ARGUMENT"].includes(error.code), error.code);
    }
  });
});

test("a loop of services ends with MAX_DEPTH_EXCEEDED", async (t) => {
  const server = await startGateway(t);
  const a = await connect(t, server, "a", { go: (n) => a.call("b", "go", n + 1) });
  const b = await connect(t, server, "b", { go: (n) => b.call("a", "go", n + 1) });
  assert.equal(await codeOf(a.call("b", "go", 0)), "MAX_DEPTH_EXCEEDED");
});

test("the context that a handler sees is its own copy", async (t) => {
  const server = await withRole(t);
  const user = await connect(t, server, "user", {
    find: async (_, context) => {
      context.chain.push("mischief");
      context.depth = 77;
      return await user.call("role", "context", null);
    },
  });
  const order = await connect(t, server, "order");
  const { chain, depth } = await order.call("user", "find", null);
  assert.deepEqual([chain, depth], [EXPECTED, 3]);
});

test("currentContext() is the context of the running handler, and nothing elsewhere", async (t) => {
  const server = await startGateway(t);
  await connect(t, server, "user", {
    same: async (_, context) => {
      await timer(1);
      return JSON.stringify(currentContext()) === JSON.stringify(context);
    },
  });
  const order = await connect(t, server, "order");
  assert.equal(await order.call("user", "same", null), true);
  assert.equal(currentContext(), undefined);
});

test("contextTracking: false makes every call without a context begin a chain", async (t) => {
  const context = await nested(t, (role) => role(), { contextTracking: false });
  assert.deepEqual([context.chain, context.depth], [["user", "role"], 2]);
});

test("a listener of an event runs outside of any handler's context", async (t) => {
  const server = await withRole(t);
  const order = await connect(t, server, "order");
  let seen = "not called";
  order.on("response-received", () => {
    seen = currentContext();
  });
  await order.call("role", "context", null);
  await until(() => seen !== "not called");
  assert.equal(seen, undefined);
});
