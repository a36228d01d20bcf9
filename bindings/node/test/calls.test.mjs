// Calls: options, errors, handlers that misbehave, many at once.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import { IPCClient, IPCError } from "ipc-bro";
import {
  atEnd,
  codeOf,
  collect,
  connect,
  expire,
  MIXES,
  next,
  pathOf,
  rejection,
  sleep,
  startGateway,
  until,
} from "./support/ipc.mjs";

/** "user" with a few methods, and "order". */
async function pair(t, methods, { caller, callee, ...config } = {}) {
  const server = await startGateway(t);
  const user = await connect(t, server, "user", methods, { serializer: callee ?? "json" });
  const order = await connect(t, server, "order", {}, { serializer: caller ?? "json", ...config });
  return { server, user, order };
}

const never = () => new Promise(() => {});

describe("options of a call", () => {
  test("timeout ends this call alone", async (t) => {
    const { order } = await pair(t, { never, soon: () => sleep(150).then(() => "done") });
    const [short, long] = [
      codeOf(order.call("user", "never", null, { timeout: 40 })),
      order.call("user", "soon", null),
    ];
    assert.equal(await short, "TIMEOUT");
    assert.equal(await long, "done");
  });

  test("timeout may be longer than the client's", async (t) => {
    const { order } = await pair(t, { slow: () => sleep(300).then(() => "done") }, { timeout: 30 });
    assert.equal(await order.call("user", "slow", null, { timeout: 60_000 }), "done");
  });

  test("timeout sets the deadline that the callee sees", async (t) => {
    const { order } = await pair(t, { deadline: (_, context) => context.deadline });
    const left = (await order.call("user", "deadline", null, { timeout: 5000 })) - Date.now();
    assert.ok(left > 0 && left <= 5000, String(left));
  });

  test("an empty set of options is like none", async (t) => {
    const { order } = await pair(t, { echo: (value) => value });
    for (const options of [{}, undefined, null, { timeout: undefined, signal: undefined, context: undefined }]) {
      assert.equal(await order.call("user", "echo", 7, options), 7);
    }
  });

  test("options that make no sense are refused", async (t) => {
    const { order } = await pair(t, { echo: (value) => value });
    for (const timeout of [-5, Number.NaN, "soon", {}]) {
      assert.equal(await codeOf(order.call("user", "echo", 1, { timeout })), "INVALID_ARGUMENT", String(timeout));
    }
  });

  test("a signal that is aborted already: the call is not made", async (t) => {
    const seen = [];
    const { order } = await pair(t, { see: (n) => seen.push(n) });
    const error = await rejection(order.call("user", "see", 1, { signal: AbortSignal.abort() }));
    assert.ok(error instanceof IPCError);
    assert.equal(error.code, "CANCELLED");
    await order.call("user", "see", 2);
    assert.deepEqual(seen, [2]);
    assert.equal(order.getStatus().pendingRequests, 0);
  });

  test("a signal that aborts later rejects at once; what the callee answers is dropped", async (t) => {
    let answer;
    const { order, user } = await pair(t, { wait: () => new Promise((resolve) => (answer = resolve)), echo: (n) => n });
    const executed = next(user, "method-executed");
    const control = new AbortController();
    const call = codeOf(order.call("user", "wait", null, { signal: control.signal }));
    await until(() => answer !== undefined);
    control.abort();
    assert.equal(await call, "CANCELLED");
    assert.equal(order.getStatus().pendingRequests, 0);
    answer("too late");
    await executed;
    assert.equal(await order.call("user", "echo", 1), 1);
  });

  test("a signal is let go of when its call has ended, and ends many calls at once", async (t) => {
    const { order } = await pair(t, { echo: (n) => n, never });
    const control = new AbortController();
    const { signal } = control;
    for (let n = 0; n < 50; n++) await order.call("user", "echo", n, { signal });
    assert.equal(getEventListeners(signal, "abort").length, 0);
    const calls = Array.from({ length: 20 }, () => codeOf(order.call("user", "never", null, { signal })));
    control.abort();
    assert.deepEqual(await Promise.all(calls), Array(20).fill("CANCELLED"));
  });

  test("AbortSignal.timeout() works", async (t) => {
    const { order } = await pair(t, { never });
    assert.equal(await codeOf(order.call("user", "never", null, { signal: AbortSignal.timeout(20) })), "CANCELLED");
  });
});

for (const mix of MIXES) {
  describe(`errors, ${mix.name}`, () => {
    test("a handler's message and code arrive, and its stack is at hand", async (t) => {
      const { order } = await pair(
        t,
        {
          async fail() {
            throw Object.assign(new Error("no such user"), { code: "USER_GONE" });
          },
        },
        mix,
      );
      const error = await rejection(order.call("user", "fail", {}));
      assert.ok(error instanceof IPCError && error instanceof Error);
      assert.deepEqual([error.message, error.code], ["no such user", "USER_GONE"]);
      assert.match(error.details.remoteStack, /calls\.test/);
    });

    test("without a code it is EXECUTION_FAILED", async (t) => {
      const { order } = await pair(
        t,
        {
          fail() {
            throw new TypeError("oops");
          },
        },
        mix,
      );
      const error = await rejection(order.call("user", "fail", {}));
      assert.deepEqual([error.message, error.code], ["oops", "EXECUTION_FAILED"]);
    });

    test("whatever is thrown, its caller is told", async (t) => {
      const throws = {
        string: () => {
          throw "text";
        },
        undefined: () => {
          throw undefined;
        },
        null: () => Promise.reject(null),
        number: () => {
          throw 42;
        },
        object: () => {
          throw { message: "like an error", code: "LIKE" };
        },
        symbol: () => {
          throw Symbol("s");
        },
        empty: () => {
          throw new Error("");
        },
        numericCode: () => {
          throw Object.assign(new Error("e"), { code: 11 });
        },
        nasty: () => {
          throw Object.defineProperty(new Error("x"), "message", {
            get() {
              throw new Error("again");
            },
          });
        },
        bareObject: () => {
          throw Object.create(null);
        },
        ipcError: () => {
          throw new IPCError("mine", "MINE");
        },
      };
      const { order } = await pair(t, throws, mix);
      const expected = { string: "text", number: "42", object: "like an error", ipcError: "mine", empty: "" };
      for (const name of Object.keys(throws)) {
        const error = await rejection(order.call("user", name, {}));
        assert.ok(error instanceof IPCError, name);
        assert.equal(typeof error.code, "string", name);
        if (name in expected) assert.equal(error.message, expected[name], name);
      }
      assert.equal(await codeOf(order.call("user", "object", {})), "LIKE");
      assert.equal(await codeOf(order.call("user", "ipcError", {})), "MINE");
      assert.equal(await codeOf(order.call("user", "numericCode", {})), "EXECUTION_FAILED");
    });

    test("what cannot be sent is refused where it stands", async (t) => {
      const cycle = {};
      cycle.self = cycle;
      const { order } = await pair(
        t,
        { cycle: () => cycle, fun: () => () => {}, symbol: () => Symbol("s"), echo: (n) => n },
        mix,
      );
      const error = await rejection(order.call("user", "cycle", null));
      if (mix.callee === "json") assert.equal(error.code, "SERIALIZATION_FAILED");
      for (const name of ["fun", "symbol"])
        assert.equal(await codeOf(order.call("user", name, null)), "SERIALIZATION_FAILED", name);
      if (mix.caller === "json") assert.equal(await codeOf(order.call("user", "echo", cycle)), "SERIALIZATION_FAILED");
      for (const value of [() => {}, Symbol("s")]) {
        assert.equal(await codeOf(order.call("user", "echo", value)), "SERIALIZATION_FAILED");
      }
      assert.equal(order.getStatus().pendingRequests, 0);
      assert.equal(await order.call("user", "echo", 1), 1);
    });
  });
}

describe("errors", () => {
  test("a nested error keeps its code along the chain", async (t) => {
    const { server, order } = await pair(t, {});
    const cart = await connect(t, server, "cart", { go: () => cart.call("stock", "count", null) });
    assert.equal(await codeOf(order.call("cart", "go", null)), "SERVICE_NOT_FOUND");
  });

  test("toJSON, getters and proxies that throw are the caller's to know", async (t) => {
    const throwing = {
      toJSON() {
        throw new Error("not this way");
      },
    };
    const { order } = await pair(t, { give: () => throwing, echo: (n) => n });
    assert.match((await rejection(order.call("user", "give", null))).message, /not this way/);
    assert.match((await rejection(order.call("user", "echo", throwing))).message, /not this way/);
  });

  test("a call that fails before it is sent rejects, it does not throw", async (t) => {
    const { order } = await pair(t, {});
    for (const [service, method] of [
      [7, "m"],
      ["user", undefined],
      [null, null],
      ["", "m"],
      ["user", "x".repeat(300)],
    ]) {
      const promise = order.call(service, method, null);
      assert.ok(promise instanceof Promise);
      assert.equal(typeof (await codeOf(promise)), "string");
    }
    assert.equal(order.getStatus().pendingRequests, 0);
  });

  test("a result or parameters beyond 32 MiB are refused; the connection stays", async (t) => {
    const { order } = await pair(t, { big: () => "x".repeat(34 * 1024 * 1024), echo: (n) => n });
    assert.equal(await codeOf(order.call("user", "big", null)), "PAYLOAD_TOO_LARGE");
    const large = order.call("user", "echo", "x".repeat(34 * 1024 * 1024));
    await assert.rejects(large, {
      code: "PAYLOAD_TOO_LARGE",
      message: /has 356515\d\d bytes, at most 33554432 are accepted/,
    });
    assert.equal(await order.call("user", "echo", 1), 1);
  });
});

for (const { caller, callee, name } of MIXES) {
  test(`errors of unusual size and content harm no connection, ${name}`, async (t) => {
    const odd = {
      longMessage: new Error("m".repeat(1 << 20)),
      longCode: Object.assign(new Error("long code"), { code: "C".repeat(100_000) }),
      oddCode: Object.assign(new Error("odd code"), { code: "\u0000\n\ud800 \u2028 ☃" }),
      oddMessage: new Error('\ud800 " \\ \u0000 \u2028'),
      longStack: Object.assign(new Error("long stack"), { stack: "s".repeat(10 << 20) }),
      oddStack: Object.assign(new Error("odd stack"), { stack: { not: "text" } }),
      oddName: Object.assign(new Error("odd name"), { name: Symbol("name") }),
    };
    const methods = Object.fromEntries(Object.keys(odd).map((key) => [key, () => Promise.reject(odd[key])]));
    const { order } = await pair(t, { ...methods, echo: (n) => n }, { caller, callee });
    const lost = collect(order, "disconnected");
    for (const key of Object.keys(odd)) {
      const error = await rejection(order.call("user", key, null));
      assert.ok(error instanceof IPCError, key);
      assert.ok(!["CONNECTION_LOST", "NOT_CONNECTED", "TIMEOUT"].includes(error.code), `${key}: ${error.code}`);
      assert.equal(await order.call("user", "echo", 1), 1);
    }
    assert.deepEqual(lost, []);
  });
}

describe("handlers", () => {
  test("that never settle hold up nobody", async (t) => {
    const { order } = await pair(t, { never, echo: (n) => n });
    const stuck = Array.from({ length: 100 }, () => codeOf(order.call("user", "never", null, { timeout: 100 })));
    assert.equal(await order.call("user", "echo", 1), 1);
    assert.deepEqual(await Promise.all(stuck), Array(100).fill("TIMEOUT"));
  });

  test("that answer after the deadline harm nobody", async (t) => {
    const given = [];
    const late = () => new Promise((resolve) => given.push(() => resolve("late")));
    const { order, user } = await pair(t, { late, echo: (n) => n });
    const executed = next(user, "method-executed");
    const call = (timeout) => order.call("user", "late", null, { timeout });
    await expire(call, () => given.length > 0);
    for (const answer of given) answer();
    await executed;
    assert.equal(await order.call("user", "echo", 1), 1);
  });

  test("may return thenables and values of other realms", async (t) => {
    const vm = await import("node:vm");
    const { order } = await pair(t, {
      thenable: () => ({ then: (resolve) => resolve("from a thenable") }),
      realm: () => vm.runInNewContext("Promise.resolve([1, { a: 'x' }])"),
      badThenable: () => ({
        then: () => {
          throw new Error("bad then");
        },
      }),
      twice: () => ({
        then: (resolve, reject) => {
          resolve(1);
          reject(new Error("no"));
          resolve(2);
        },
      }),
    });
    assert.equal(await order.call("user", "thenable", null), "from a thenable");
    assert.deepEqual(await order.call("user", "realm", null), [1, { a: "x" }]);
    assert.equal((await rejection(order.call("user", "badThenable", null))).message, "bad then");
    assert.equal(await order.call("user", "twice", null), 1);
  });

  test("are called without `this` of ours, and may be methods bound to an object", async (t) => {
    class Users {
      #name = "Ada";
      find = () => this.#name;
    }
    const { order } = await pair(t, new Users());
    assert.equal(await order.call("user", "find", null), "Ada");
  });

  test("may replace or remove themselves", async (t) => {
    const { order, user } = await pair(t, {
      once: () => {
        user.unregisterMethod("once");
        return "only once";
      },
    });
    assert.equal(await order.call("user", "once", null), "only once");
    assert.equal(await codeOf(order.call("user", "once", null)), "METHOD_NOT_FOUND");
  });

  test("may call their own service, and their caller", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user", {
      outer: (n) => user.call("user", "inner", n),
      inner: (n) => user.call("order", "double", n),
    });
    const order = await connect(t, server, "order", { double: (n) => 2 * n });
    assert.equal(await order.call("user", "outer", 21), 42);
  });

  test("may disconnect their client: the caller is told", async (t) => {
    const { order, user } = await pair(t, {
      leave: async () => {
        await user.disconnect();
        return 1;
      },
    });
    const code = await codeOf(order.call("user", "leave", null));
    assert.ok(["SHUTTING_DOWN", "CONNECTION_LOST"].includes(code), code);
  });

  test("named like the members of any object are methods like others", async (t) => {
    const names = ["constructor", "__proto__", "toString", "hasOwnProperty", "then", "ü.ø ☃", "a b", "Méthode"];
    const server = await startGateway(t);
    const user = new IPCClient({ serviceName: "user", gatewayPath: pathOf(server) });
    atEnd(t, () => user.disconnect());
    for (const name of names) user.registerMethod(name, () => name);
    await user.connect();
    const order = await connect(t, server, "order");
    for (const name of names) assert.equal(await order.call("user", name, null), name);
    assert.equal(await codeOf(order.call("user", "valueOf", null)), "METHOD_NOT_FOUND");
    assert.equal(await codeOf(order.call("constructor", "x", null)), "SERVICE_NOT_FOUND");
  });
});

for (const { caller, callee, name } of MIXES) {
  test(`10,000 calls at once, each with its own answer, ${name}`, async (t) => {
    const { order } = await pair(t, { square: ({ n }) => ({ n, square: n * n }) }, { caller, callee });
    const calls = Array.from({ length: 10_000 }, (_, n) =>
      order.call("user", "square", { n, pad: "x".repeat(n % 50) }),
    );
    const results = await Promise.all(calls);
    for (const [n, result] of results.entries()) assert.deepEqual(result, { n, square: n * n });
    assert.equal(order.getStatus().pendingRequests, 0);
  });
}

test("many calls over a pool, with handlers that take different times", async (t) => {
  const server = await startGateway(t);
  await connect(t, server, "user", { echo: (n) => sleep(n % 7).then(() => n) }, { poolSize: 4 });
  const order = await connect(t, server, "order", {}, { poolSize: 4 });
  const results = await Promise.all(Array.from({ length: 2000 }, (_, n) => order.call("user", "echo", n)));
  assert.deepEqual(
    results,
    Array.from({ length: 2000 }, (_, n) => n),
  );
});

test("calls of one caller to one callee arrive in their order", async (t) => {
  const seen = [];
  const { order } = await pair(t, { see: (n) => void seen.push(n) });
  await Promise.all(Array.from({ length: 3000 }, (_, n) => order.call("user", "see", n)));
  assert.deepEqual(
    seen,
    Array.from({ length: 3000 }, (_, n) => n),
  );
});

test("successes, failures, timeouts and cancellations side by side", async (t) => {
  const { order } = await pair(t, {
    echo: (n) => n,
    fail: () => {
      throw new Error("no");
    },
    never,
  });
  const control = new AbortController();
  const calls = Array.from({ length: 400 }, (_, n) => {
    if (n % 4 === 0) return order.call("user", "echo", n);
    if (n % 4 === 1) return codeOf(order.call("user", "fail", n));
    if (n % 4 === 2) return codeOf(order.call("user", "never", n, { timeout: 50 }));
    return codeOf(order.call("user", "never", n, { signal: control.signal }));
  });
  setTimeout(() => control.abort(), 30);
  const expected = (n) => [n, "EXECUTION_FAILED", "TIMEOUT", "CANCELLED"][n % 4];
  assert.deepEqual(
    await Promise.all(calls),
    Array.from({ length: 400 }, (_, n) => expected(n)),
  );
});

describe("a typed façade", () => {
  test("calls methods by their names", async (t) => {
    const { order } = await pair(t, { getUserById: ({ id }) => ({ id, name: "Ada" }), count: () => 3 });
    const users = order.service("user");
    assert.deepEqual(await users.getUserById({ id: 7 }), { id: 7, name: "Ada" });
    assert.equal(await users.count(), 3);
    assert.equal(await codeOf(users.missing({})), "METHOD_NOT_FOUND");
    assert.equal(await codeOf(users.count(undefined, { signal: AbortSignal.abort() })), "CANCELLED");
  });

  test("can be awaited, printed and compared without making calls", async (t) => {
    const { inspect } = await import("node:util");
    const { order, server } = await pair(t, { a: () => 1 });
    const routed = collect(server, "call-routed");
    const users = order.service("user");
    assert.equal(await users, users);
    inspect(users);
    JSON.stringify({ users });
    await order.call("user", "a", null);
    await sleep(20);
    assert.ok(routed.every(({ method }) => method === "a"));
  });
});

test("the gateway answers for itself", async (t) => {
  const { order } = await pair(t, { a: () => 1 });
  assert.equal((await order.call("bro.gateway", "ping", {})).pong, true);
  const { services } = await order.call("bro.gateway", "services", {});
  assert.deepEqual(services.map(({ name }) => name).sort(), ["order", "user"]);
  assert.equal((await order.call("user", "bro.ping", {})).pong, true);
});

test("the method call-routed tells is the one that was called, also under load", async (t) => {
  const { server, order } = await pair(t, { a: () => 1, b: () => 2 });
  const routed = collect(server, "call-routed");
  await Promise.all(Array.from({ length: 500 }, (_, n) => order.call("user", n % 2 ? "a" : "b", n)));
  await until(() => routed.length === 500);
  assert.equal(routed.filter(({ method }) => method === "a").length, 250);
});
