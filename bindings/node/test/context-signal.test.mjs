// `context.signal` is there for whoever asks for it, and for nobody else.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { currentContext, IPCUtils } from "ipc-bro";
import { atEnd, connect, MIXES, pathOf, startGateway } from "./support/ipc.mjs";
import { OldProgram } from "./support/old-program.mjs";

const FIELDS = ["root", "chain", "depth", "deadline"];

for (const { caller, callee, name } of MIXES) {
  test(`a context with a signal is like one without, ${name}`, async (t) => {
    const server = await startGateway(t);
    let checked = 0;
    const check = (_, context) => {
      const { root, chain, depth, deadline } = context;
      assert.ok(context.signal instanceof AbortSignal);
      assert.equal(context.signal, context.signal);
      assert.deepEqual(Object.keys(context), FIELDS);
      assert.deepEqual(context, { root, chain, depth, deadline });
      assert.deepEqual({ ...context }, { root, chain, depth, deadline });
      assert.deepEqual(Object.assign({}, context), { root, chain, depth, deadline });
      assert.deepEqual(structuredClone(context), { root, chain, depth, deadline });
      assert.equal(JSON.stringify(context), JSON.stringify({ root, chain, depth, deadline }));
      const listed = [];
      for (const key in context) listed.push(key);
      assert.deepEqual(listed, FIELDS);
      assert.equal("signal" in { ...context }, false);
      assert.equal(Object.getPrototypeOf(context), Object.prototype);
      assert.ok(IPCUtils.validateContext(context));
      checked++;
      return context;
    };
    await connect(t, server, "user", { check }, { serializer: callee });
    const order = await connect(t, server, "order", {}, { serializer: caller });
    // Beyond the number from which on contexts are made by compiled code.
    for (let n = 0; n < 40; n++) {
      const answer = await order.call("user", "check", n);
      assert.deepEqual(Object.keys(answer), FIELDS);
      assert.equal(answer.signal, undefined);
    }
    assert.equal(checked, 40);
  });
}

describe("a handler gets at the signal, however it is written:", () => {
  const isSignal = (value) => value instanceof AbortSignal;
  const wrap = (handler) =>
    function (...args) {
      return handler.apply(this, args);
    };
  const inner = (params, context) => isSignal(context.signal) && params;
  class Service {
    find(params, context) {
      return this.ok(context) && params;
    }
    ok(context) {
      return isSignal(context.signal);
    }
    static async of(params, { signal }) {
      return isSignal(signal) && params;
    }
  }
  const handlers = {
    "an arrow": (params, context) => isSignal(context.signal) && params,
    "optional chaining": (params, context) => isSignal(context?.signal) && params,
    "a computed name": (params, context) => isSignal(context[["sig", "nal"].join("")]) && params,
    "a pattern": (params, { signal }) => isSignal(signal) && params,
    "a pattern with another name": async (params, { chain, signal: stop }) => isSignal(stop) && chain && params,
    "a pattern with a default": (params, { signal = undefined }) => isSignal(signal) && params,
    "both patterns": ({ n }, { signal }) => isSignal(signal) && { n },
    "a default parameter": (params, context = {}) => isSignal(context.signal) && params,
    "defaults before it": (params = 1, context = {}) => isSignal(context.signal) && params,
    "rest parameters": (...args) => isSignal(args[1].signal) && args[0],
    "a rest pattern": (params, ...[context]) => isSignal(context.signal) && params,
    arguments: function (params) {
      // biome-ignore lint/complexity/noArguments: this is about them
      return isSignal(arguments[1].signal) && params;
    },
    "a function with a name": async function find(params, context) {
      return isSignal(context.signal) && params;
    },
    "a method": {
      find(params, context) {
        return isSignal(context.signal) && params;
      },
    }.find,
    "an async method": {
      async find(params, context) {
        return isSignal(context.signal) && params;
      },
    }.find,
    "a static method": Service.of,
    "a bound method": Service.prototype.find.bind(new Service()),
    "a wrapper": wrap(inner),
    "a proxy": new Proxy(inner, {}),
    "handing the context on": (params, context) => inner(params, context),
    "another name for it": (params, context) => {
      const same = context;
      return isSignal(same.signal) && params;
    },
    "in a closure": (params, context) => (() => isSignal(context.signal) && params)(),
    "beside its fields": (params, context) => context.chain.length === 2 && isSignal(context.signal) && params,
    "a name with a dollar": (params, $c) => isSignal($c.signal) && params,
    "a comment in front": (params, /* of the call */ context) => isSignal(context.signal) && params,
    // biome-ignore lint/security/noGlobalEval: this is about it
    eval: (params, context) => context.depth && isSignal(eval("context.signal")) && params,
    "an escaped name": new Function("isSignal", "return (params, context) => isSignal(\\u0063ontext.signal) && params")(
      isSignal,
    ),
    "sloppy mode": new Function("isSignal", "return function (p, c) { with (c) { return isSignal(signal) && p; } }")(
      isSignal,
    ),
    "without a parameter": () => isSignal(currentContext().signal) && { n: 7 },
    "without a parameter, later": async (params) => (await null, isSignal(currentContext().signal) && params),
    "fields alone, and currentContext()": (params, context) =>
      context.depth === 2 && isSignal(currentContext().signal) && params,
  };
  for (const [name, handler] of Object.entries(handlers)) {
    test(name, async (t) => {
      const server = await startGateway(t);
      await connect(t, server, "user", { find: handler });
      const order = await connect(t, server, "order");
      assert.deepEqual(await order.call("user", "find", { n: 7 }), { n: 7 });
    });
  }
});

test("no signal is made for handlers that do not ask", async (t) => {
  const server = await startGateway(t);
  const contexts = [];
  await connect(t, server, "user", {
    none: (value) => value,
    fields: (value, context) => [value, context.chain.length, context.depth, context.root, context.deadline],
    all: (value, context) => (contexts.push(context), value),
  });
  const order = await connect(t, server, "order");
  const { AbortController } = globalThis;
  let made = 0;
  globalThis.AbortController = class extends AbortController {
    constructor() {
      super();
      made++;
    }
  };
  atEnd(t, () => {
    globalThis.AbortController = AbortController;
  });
  for (let n = 0; n < 20; n++) {
    await order.call("user", "none", n);
    await order.call("user", "fields", n);
    await order.call("user", "all", n);
  }
  assert.equal(made, 0);
  assert.equal(contexts[0].signal.aborted, false);
  assert.equal(made, 1);
});

test("what an old program calls `signal` in its context is no signal", async (t) => {
  const server = await startGateway(t);
  await connect(t, server, "user", {
    look: (_, context) => [context.signal instanceof AbortSignal, Object.keys(context)],
  });
  const old = new OldProgram({ path: pathOf(server), name: "old" });
  atEnd(t, () => old.close());
  await old.connect();
  const context = { ...old.newContext(), signal: { aborted: true } };
  assert.deepEqual(await old.call("user", "look", null, { context }), [true, FIELDS]);
});

test("contexts outside of handlers have none", () => {
  assert.equal(IPCUtils.createContext("order").signal, undefined);
  assert.equal(IPCUtils.extendContext(IPCUtils.createContext("order"), "user").signal, undefined);
  assert.equal(currentContext(), undefined);
});
