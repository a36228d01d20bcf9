// A call that is given up ends everywhere: handlers learn it by `context.signal`.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import { IPCError, IPCUtils } from "ipc-bro";
import { start } from "./support/children.mjs";
import { atEnd, codeOf, connect, expire, freePath, pathOf, rejection, startGateway, until } from "./support/ipc.mjs";
import { settle, startBroGateway, statusOf } from "./support/lanes.mjs";
import { OldGateway } from "./support/old-gateway.mjs";
import { OldProgram } from "./support/old-program.mjs";

/** Resolves with the reason when the signal aborts. */
const aborted = (signal) =>
  new Promise((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    else signal.addEventListener("abort", () => resolve(signal.reason));
  });

/** A service "user" whose method `wait` never answers; `begun` and `given up` resolve for its first call. */
async function withWaiting(t, gateway, config = {}) {
  let tell;
  let begun = 0;
  const seen = new Promise((resolve) => {
    tell = resolve;
  });
  const user = await connect(
    t,
    gateway,
    "user",
    {
      wait: (_, context) => {
        begun += 1;
        tell({ context, reason: aborted(context.signal) });
        return new Promise(() => {});
      },
      echo: (value) => value,
    },
    config,
  );
  return { user, seen, reason: seen.then(({ reason }) => reason), hasBegun: () => begun > 0 };
}

function assertReason(reason, code) {
  assert.ok(reason instanceof IPCError);
  assert.equal(reason.code, code);
}

describe("the caller gives up", () => {
  for (const serializer of ["json", "msgpack"]) {
    for (const contextTracking of [true, false]) {
      const how = contextTracking ? "tracked" : "passed on";
      test(`down a chain of three services, ${serializer}, contexts ${how}`, async (t) => {
        const server = await startGateway(t);
        const reasons = [];
        const codes = [];
        const service = (name, below) => {
          const work = async (_, context) => {
            reasons.push(aborted(context.signal));
            if (below === undefined) return await new Promise(() => {});
            const nested = clients[name].call(below, "work", null, contextTracking ? undefined : context);
            codes.push(codeOf(nested));
            return await nested;
          };
          return connect(t, server, name, { work }, { serializer, contextTracking });
        };
        const clients = { a: await service("a", "b"), b: await service("b", "c"), c: await service("c") };
        const web = await connect(t, server, "web", {}, { serializer });
        const control = new AbortController();
        const call = rejection(web.call("a", "work", null, { signal: control.signal }));
        await until(() => reasons.length === 3);
        control.abort(new Error("no longer needed"));
        const error = await call;
        assert.equal(error.code, "CANCELLED");
        assert.equal(error.cause.message, "no longer needed");
        for (const reason of await Promise.all(reasons)) assertReason(reason, "CANCELLED");
        assert.deepEqual(await Promise.all(codes), ["CANCELLED", "CANCELLED"]);
        await until(() => Object.values(clients).every((client) => client.stats().requestsInWork === 0));
        assert.equal(server.stats().counters.callsCancelled, 3);
        assert.equal(web.stats().lateAnswers, 0);
      });
    }
  }

  test("before the call is sent: nobody hears of it", async (t) => {
    const server = await startGateway(t);
    const { user } = await withWaiting(t, server);
    const order = await connect(t, server, "order");
    assert.equal(await codeOf(order.call("user", "wait", null, { signal: AbortSignal.abort() })), "CANCELLED");
    await order.call("user", "echo", 1);
    assert.equal(user.stats().requests, 1);
  });

  test("at once: the handler has begun, and is told", async (t) => {
    const server = await startGateway(t);
    const { user, reason } = await withWaiting(t, server);
    const order = await connect(t, server, "order");
    const control = new AbortController();
    const call = codeOf(order.call("user", "wait", null, { signal: control.signal }));
    control.abort();
    assert.equal(await call, "CANCELLED");
    assertReason(await reason, "CANCELLED");
    assert.equal(user.stats().requestsInWork, 0);
  });

  test("after the answer: nothing happens", async (t) => {
    const server = await startGateway(t);
    let signal;
    await connect(t, server, "user", {
      echo: (value, context) => {
        signal = context.signal;
        return value;
      },
    });
    const order = await connect(t, server, "order");
    const control = new AbortController();
    assert.equal(await order.call("user", "echo", 1, { signal: control.signal }), 1);
    control.abort();
    assert.equal(await order.call("user", "echo", 2), 2);
    assert.equal(signal.aborted, false);
    assert.equal(server.stats().counters.callsCancelled, 0);
  });

  test("whatever the handler answers then is dropped without a word", async (t) => {
    const server = await startGateway(t);
    const executed = [];
    const user = await connect(t, server, "user", {
      result: async (_, { signal }) => (await aborted(signal), "too late"),
      failure: async (_, { signal }) => Promise.reject(await aborted(signal)),
      throwing: async (_, { signal }) => (await aborted(signal), signal.throwIfAborted()),
    });
    user.on("method-executed", (event) => executed.push(event));
    const order = await connect(t, server, "order");
    for (const method of ["result", "failure", "throwing"]) {
      const control = new AbortController();
      const call = codeOf(order.call("user", method, null, { signal: control.signal }));
      await until(() => user.stats().requestsInWork === 1);
      control.abort();
      assert.equal(await call, "CANCELLED");
      await until(() => user.stats().requestsInWork === 0);
    }
    assert.deepEqual(
      executed.map(({ method, success, error }) => [method, success, error]),
      ["result", "failure", "throwing"].map((method) => [method, false, "CANCELLED"]),
    );
    assert.equal(order.stats().lateAnswers, 0);
    assert.equal(server.stats().counters.responsesDropped, 0);
  });

  test("a handler that looks only later finds the signal aborted", async (t) => {
    const server = await startGateway(t);
    let seen;
    const user = await connect(t, server, "user", {
      wait: (_, context) => {
        seen = context;
        return new Promise(() => {});
      },
    });
    const order = await connect(t, server, "order");
    const control = new AbortController();
    const call = codeOf(order.call("user", "wait", null, { signal: control.signal }));
    await until(() => seen);
    control.abort();
    await call;
    await until(() => user.stats().requestsInWork === 0);
    await until(() => seen.signal.aborted);
    assertReason(seen.signal.reason, "CANCELLED");
    assert.equal(seen.signal, seen.signal);
  });
});

describe("other reasons", () => {
  test("the caller's time is over", async (t) => {
    const server = await startGateway(t);
    const { reason, hasBegun } = await withWaiting(t, server);
    const order = await connect(t, server, "order");
    await expire((timeout) => order.call("user", "wait", null, { timeout }), hasBegun);
    assertReason(await reason, "TIMEOUT");
  });

  test("the caller's process is killed, and so down its chain", async (t) => {
    const server = await startGateway(t);
    const { reason } = await withWaiting(t, server);
    const reasons = [];
    const middle = await connect(t, server, "middle", {
      work: (_, context) => {
        reasons.push(aborted(context.signal));
        return middle.call("user", "wait", null);
      },
    });
    const { child, printed } = start(t, "calls.mjs", pathOf(server), "middle", "work");
    await printed("calling");
    await until(() => reasons.length === 1);
    await until(() => server.stats().inFlight === 2);
    child.kill("SIGKILL");
    assertReason(await reasons[0], "CONNECTION_LOST");
    assert.ok(["CONNECTION_LOST", "CANCELLED"].includes((await reason).code));
  });

  test("the gateway is killed", async (t) => {
    const path = freePath(t);
    const { child, printed } = start(t, "gateway.mjs", path);
    await printed("ready");
    const { seen, reason } = await withWaiting(t, path);
    const order = await connect(t, path, "order");
    const call = codeOf(order.call("user", "wait", null));
    await seen;
    child.kill("SIGKILL");
    assert.equal(await call, "CONNECTION_LOST");
    assertReason(await reason, "CONNECTION_LOST");
  });

  test("the callee disconnects", async (t) => {
    const server = await startGateway(t);
    const { user, seen, reason } = await withWaiting(t, server);
    const order = await connect(t, server, "order");
    const call = codeOf(order.call("user", "wait", null));
    await seen;
    await user.disconnect();
    assertReason(await reason, "SHUTTING_DOWN");
    assert.equal(await call, "SHUTTING_DOWN");
  });
});

describe("calls made for a call that was given up", () => {
  /** "user" whose handler makes a call when it has been given up; how that ends. */
  async function late(t, giveUp, call) {
    const server = await startGateway(t);
    await connect(t, server, "role", { echo: (value, { chain }) => [value, chain] });
    let tell;
    let begun = 0;
    const ended = new Promise((resolve) => {
      tell = resolve;
    });
    const user = await connect(t, server, "user", {
      work: async (_, context) => {
        begun += 1;
        await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
        // Not in the listener, which runs for nobody.
        tell(call(user, context).catch((error) => error));
      },
    });
    const order = await connect(t, server, "order");
    await giveUp(order, user, () => begun > 0);
    return await ended;
  }
  const abort = async (order, user) => {
    const control = new AbortController();
    const call = codeOf(order.call("user", "work", null, { signal: control.signal }));
    await until(() => user.stats().requestsInWork === 1);
    control.abort();
    await call;
  };
  const outlive = (order, _, hasBegun) => expire((timeout) => order.call("user", "work", null, { timeout }), hasBegun);

  test("are refused with CANCELLED", async (t) => {
    const error = await late(t, abort, (user) => user.call("role", "echo", 1));
    assert.equal(error.code, "CANCELLED");
    assert.deepEqual(error.details, { service: "role", method: "echo" });
    assertReason(error.cause, "CANCELLED");
  });

  test("also where the context is passed on, and for notifications", async (t) => {
    assert.equal((await late(t, abort, (user, context) => user.call("role", "echo", 1, context))).code, "CANCELLED");
    const passed = await late(t, abort, (user, context) => user.call("role", "echo", 1, { context }));
    assert.equal(passed.code, "CANCELLED");
    assert.equal((await late(t, abort, (user) => user.notify("role", "echo", 1))).code, "CANCELLED");
  });

  test("are refused with DEADLINE_EXCEEDED when its time was over", async (t) => {
    assert.equal((await late(t, outlive, (user) => user.call("role", "echo", 1))).code, "DEADLINE_EXCEEDED");
  });

  test("go through with a context of their own, for cleaning up", async (t) => {
    const answer = await late(t, abort, (user) => user.call("role", "echo", 1, IPCUtils.createContext("user")));
    assert.deepEqual(answer, [1, ["user", "role"]]);
  });

  test("end, also where another client of the process makes them", async (t) => {
    const server = await startGateway(t);
    const { reason } = await withWaiting(t, server);
    const other = await connect(t, server, "other");
    let nested;
    await connect(t, server, "middle", {
      work: () => {
        nested = codeOf(other.call("user", "wait", null));
        return nested;
      },
    });
    const order = await connect(t, server, "order");
    const control = new AbortController();
    const call = codeOf(order.call("middle", "work", null, { signal: control.signal }));
    await until(() => server.stats().inFlight === 2);
    control.abort();
    assert.equal(await call, "CANCELLED");
    assert.equal(await nested, "CANCELLED");
    assertReason(await reason, "CANCELLED");
  });

  test("go on when the handler has answered", async (t) => {
    const server = await startGateway(t);
    let nested;
    const release = withResolvers();
    await connect(t, server, "role", { slow: async (value) => (await release.promise, value) });
    const user = await connect(t, server, "user", {
      work: () => {
        nested = user.call("role", "slow", 7);
        return "answered";
      },
    });
    const order = await connect(t, server, "order");
    assert.equal(await order.call("user", "work", null), "answered");
    release.resolve();
    assert.equal(await nested, 7);
  });
});

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

describe("version 1", () => {
  const joined = async (t, server, options) => {
    const old = new OldProgram({ path: pathOf(server), ...options });
    atEnd(t, () => old.close());
    return await old.connect();
  };

  test("an old caller that goes is noticed", async (t) => {
    const server = await startGateway(t);
    const { seen, reason } = await withWaiting(t, server);
    const old = await joined(t, server, { name: "old" });
    old.call("user", "wait", null).catch(() => {});
    await seen;
    old.close();
    assertReason(await reason, "CONNECTION_LOST");
  });

  test("the deadline of an old caller's call is kept", async (t) => {
    const server = await startGateway(t);
    const { reason, hasBegun } = await withWaiting(t, server);
    const old = await joined(t, server, { name: "old" });
    const call = (timeout) => {
      const context = { root: "root-1-abc000", chain: ["old", "old"], depth: 2, deadline: Date.now() + timeout };
      return old.call("user", "wait", null, { context });
    };
    await expire(call, hasBegun);
    assertReason(await reason, "TIMEOUT");
  });

  test("an old callee cannot be told: its answer is dropped", async (t) => {
    const server = await startGateway(t);
    const release = withResolvers();
    const old = await joined(t, server, { name: "old", methods: { slow: () => release.promise, echo: (n) => n } });
    const order = await connect(t, server, "order");
    const control = new AbortController();
    const call = codeOf(order.call("old", "slow", null, { signal: control.signal }));
    await until(() => old.received.length === 1);
    control.abort();
    assert.equal(await call, "CANCELLED");
    await until(() => server.stats().counters.callsCancelled === 1);
    release.resolve("late");
    await until(() => server.stats().counters.responsesDropped === 1);
    assert.equal(await order.call("old", "echo", 5), 5);
    assert.equal(order.stats().lateAnswers, 0);
  });

  for (const [name, gateway] of [
    ["an old gateway", async (t) => (await oldGateway(t)).path],
    ["a gateway with protocol 1", (t) => startGateway(t, { protocol: 1 })],
  ]) {
    test(`${name} cannot tell handlers, and nothing breaks`, async (t) => {
      const at = await gateway(t);
      const { user, seen, reason } = await withWaiting(t, at);
      const order = await connect(t, at, "order");
      assert.equal(order.stats().connectionsV2, 0);
      const control = new AbortController();
      const call = codeOf(order.call("user", "wait", null, { signal: control.signal, timeout: 3000 }));
      const { context } = await seen;
      control.abort();
      assert.equal(await call, "CANCELLED");
      assert.equal(await order.call("user", "echo", 1), 1);
      assert.equal(context.signal.aborted, false);
      // The deadline is still its own.
      assertReason(await reason, "TIMEOUT");
      assert.equal(user.stats().requestsInWork, 0);
    });
  }

  for (const [name, of] of [
    ["caller", { caller: { protocol: 1 } }],
    ["callee", { callee: { protocol: 1 } }],
  ]) {
    test(`protocol: 1 of the ${name} alone`, async (t) => {
      const server = await startGateway(t);
      const { user, seen } = await withWaiting(t, server, of.callee);
      const order = await connect(t, server, "order", {}, of.caller);
      assert.deepEqual([order, user].map((client) => client.stats().connectionsV2).sort(), [0, 1]);
      const control = new AbortController();
      const call = codeOf(order.call("user", "wait", null, { signal: control.signal }));
      await seen;
      control.abort();
      assert.equal(await call, "CANCELLED");
      assert.equal(await order.call("user", "echo", 1), 1);
    });
  }
});

describe("on lanes", () => {
  /** "web" calls "middle", which calls "user", whose handler waits; each over a lane. */
  async function chain(t) {
    const { path } = await startBroGateway(t, freePath(t));
    const { user, seen, reason } = await withWaiting(t, path);
    const reasons = [];
    const middle = await connect(t, path, "middle", {
      work: (_, context) => {
        reasons.push(aborted(context.signal));
        return middle.call("user", "wait", null);
      },
      echo: (value) => value,
    });
    const web = await connect(t, path, "web");
    await settle(web, "middle");
    await settle(middle, "user");
    const { callsRouted } = await statusOf(web);
    /** Resolves when "user" is at work, with how the call ends. */
    const work = async (options) => {
      const call = rejection(web.call("middle", "work", null, options));
      // Its time may be over before it has come so far.
      if ((await Promise.race([seen, call])) instanceof Error) return undefined;
      assert.equal((await statusOf(web)).callsRouted, callsRouted);
      return { call };
    };
    const idle = () => until(() => [user, middle].every((client) => client.stats().requestsInWork === 0));
    return { web, user, work, idle, reasons: async () => [(await reasons[0]).code, (await reason).code] };
  }

  test("a call that is given up ends down the chain", async (t) => {
    const { work, idle, reasons } = await chain(t);
    const control = new AbortController();
    const { call } = await work({ signal: control.signal });
    control.abort();
    assert.equal((await call).code, "CANCELLED");
    assert.deepEqual(await reasons(), ["CANCELLED", "CANCELLED"]);
    await idle();
  });

  test("a deadline ends it down the chain", async (t) => {
    const { work, idle, reasons } = await chain(t);
    let working;
    for (const timeout of [300, 3000, 30_000]) working ??= await work({ timeout });
    const { call } = working;
    assert.equal((await call).code, "TIMEOUT");
    for (const code of await reasons()) assert.ok(["TIMEOUT", "CANCELLED"].includes(code), code);
    await idle();
  });

  test("notifications go past the gateway", async (t) => {
    const { path } = await startBroGateway(t, freePath(t));
    let heard = 0;
    await connect(t, path, "audit", { record: () => heard++, echo: (value) => value });
    const order = await connect(t, path, "order");
    await settle(order, "audit");
    const { notificationsRouted } = await statusOf(order);
    for (let n = 0; n < 100; n++) await order.notify("audit", "record", n);
    await until(() => heard === 100);
    assert.equal((await statusOf(order)).notificationsRouted, notificationsRouted);
  });

  test("a drain finishes what came on them", async (t) => {
    const { web, user, work } = await chain(t);
    const { call } = await work();
    const drained = rejection(user.drain({ timeout: 100 }));
    assert.equal((await drained).code, "TIMEOUT");
    assert.equal(await codeOf(web.call("user", "echo", 1)), "SHUTTING_DOWN");
    await user.disconnect({ drain: 20 });
    assert.equal((await call).code, "SHUTTING_DOWN");
  });
});

async function oldGateway(t) {
  const gateway = await new OldGateway(freePath(t)).start();
  atEnd(t, () => gateway.stop());
  return gateway;
}

describe("signals", () => {
  test("of a caller's are let go of when a call ends", async (t) => {
    const server = await startGateway(t);
    const { reason, hasBegun } = await withWaiting(t, server);
    const order = await connect(t, server, "order");
    const { signal } = new AbortController();
    for (let n = 0; n < 5; n++) await order.call("user", "echo", n, { signal });
    await order.call("nobody", "echo", 1, { signal }).catch(() => {});
    await expire((timeout) => order.call("user", "wait", null, { signal, timeout }), hasBegun);
    assert.equal(getEventListeners(signal, "abort").length, 0);
    await reason;
  });

  test("of a handler may be given to what it calls", async (t) => {
    const server = await startGateway(t);
    const { reason } = await withWaiting(t, server);
    const middle = await connect(t, server, "middle", {
      work: (_, { signal }) => middle.call("user", "wait", null, { signal }),
    });
    const order = await connect(t, server, "order");
    const control = new AbortController();
    const call = codeOf(order.call("middle", "work", null, { signal: control.signal }));
    await until(() => server.stats().inFlight === 2);
    control.abort();
    assert.equal(await call, "CANCELLED");
    assertReason(await reason, "CANCELLED");
  });

  test("beside the fields of a context count", async (t) => {
    const server = await startGateway(t);
    const { seen } = await withWaiting(t, server);
    const order = await connect(t, server, "order");
    const control = new AbortController();
    const context = { ...IPCUtils.createContext("order"), signal: control.signal };
    const call = codeOf(order.call("user", "wait", null, context));
    await seen;
    control.abort();
    assert.equal(await call, "CANCELLED");
  });

  test("cost no memory over 100,000 calls", async (t) => {
    const server = await startGateway(t);
    const never = new AbortController();
    const user = await connect(t, server, "user", {
      look: (value, { signal }) => (signal.aborted ? "no" : value),
      wait: (_, { signal }) => new Promise((resolve) => signal.addEventListener("abort", resolve)),
    });
    const order = await connect(t, server, "order");
    let made = 0;
    const work = async (count) => {
      for (const until = made + count; made < until; ) {
        made += 50;
        const given = new AbortController();
        const calls = Array.from({ length: 49 }, (_, n) => order.call("user", "look", n, { signal: never.signal }));
        const wait = codeOf(order.call("user", "wait", null, { signal: given.signal }));
        await Promise.all(calls);
        given.abort();
        assert.equal(await wait, "CANCELLED");
      }
      await until(() => user.stats().requestsInWork === 0);
    };
    const heap = async () => {
      for (let n = 0; n < 4; n++) {
        globalThis.gc();
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return process.memoryUsage().heapUsed;
    };
    await work(20_000);
    const before = await heap();
    await work(80_000);
    const grown = (await heap()) - before;
    // 100,000 controllers with their signals would be above 50 MB.
    assert.ok(grown < 3_000_000, `the heap grew by ${grown} bytes`);
    assert.equal(getEventListeners(never.signal, "abort").length, 0);
  });
});
