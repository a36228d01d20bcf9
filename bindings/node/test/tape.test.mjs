// Values that come again and again are taken apart and put together by code made for them, instead of by V8's JSON. Nobody may notice.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection } from "node:net";
import { describe, test } from "node:test";
import { startNode } from "./support/children.mjs";
import { codeOf, connect, pathOf, startGateway } from "./support/ipc.mjs";
import { frame, readFrames } from "./support/wire.mjs";

/** So often that shapes in shapes in shapes are known to both sides. */
const TIMES = 80;

async function pair(t, methods = {}) {
  const server = await startGateway(t);
  await connect(t, server, "callee", { echo: (value) => value, ...methods });
  const caller = await connect(t, server, "caller");
  return { caller, echo: (value) => caller.call("callee", "echo", value) };
}

/** Sends it many times, some at once, and compares what the callee saw and what came back with what JSON makes of it. */
async function sameAsJson(t, make) {
  const { caller } = await pair(t);
  const expected = make().map((value) => JSON.stringify(value));
  for (let time = 0; time < TIMES; time++) {
    const values = make();
    const echoes = await Promise.all(values.map((value) => caller.call("callee", "echo", value)));
    for (const [at, echo] of echoes.entries()) {
      if (expected[at] === undefined) assert.equal(echo, undefined);
      else assert.deepEqual(echo, JSON.parse(expected[at]), `time ${time}: ${expected[at]?.slice(0, 200)}`);
      assert.equal(JSON.stringify(echo), expected[at]);
    }
  }
}

class Point {
  constructor() {
    this.x = 1;
    this.y = 2;
  }
}

class Celsius {
  constructor(degrees) {
    this.degrees = degrees;
  }
  toJSON() {
    return `${this.degrees} C`;
  }
}

const VALUES = {
  "objects in objects in arrays": () => ({
    a: { b: { c: [{ d: 1 }, { d: 2 }, { d: "3", e: null }] } },
    f: [[], [[]], {}],
  }),
  "numbers of every kind": () => ({
    zero: 0,
    "minus zero": -0,
    limits: [2 ** 31 - 1, 2 ** 31, -(2 ** 31), -(2 ** 31) - 1, 2 ** 32, 2 ** 53 - 1, -(2 ** 53) + 1],
    beyond: [2 ** 53, 2 ** 60, 1e20, 1e21, 1e22, 1.5e300, -1e100],
    fractions: [0.1, -0.1, 1 / 3, 1e-6, 1e-7, 123e-20, 5e-324, 1.7976931348623157e308, 363.4, 19.95],
    time: 1_700_000_000_123,
    none: [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
  }),
  "texts of every kind": () => ({
    empty: "",
    escapes: 'quote " backslash \\ slash / \n \r \t \b \f \u0000 \u001f \u007f \u2028 \u2029',
    latin: "é ž ÿ",
    more: ["日本語", "עברית", "🦀", "👩‍👩‍👧‍👦", "x🦀y"],
    broken: ["\ud83e", "\udd80", "a\ud83eb", "\udd80\ud83e"],
    ascii: "plain",
  }),
  words: () => [true, false, null, { yes: true, no: false, none: null }],
  "what JSON leaves out": () => ({ a: undefined, b: 1, c: undefined, d: [undefined, 1, undefined] }),
  "what JSON turns into something else": () => ({
    date: new Date(0),
    url: new URL("http://localhost/x"),
    point: new Point(),
  }),
  "toJSON anywhere": () => [
    new Celsius(20),
    { in: new Celsius(21) },
    { toJSON: () => ({ own: true }) },
    Object.assign([1], { toJSON: () => "array" }),
  ],
  "a toJSON that is not enumerable": () =>
    Object.defineProperty({ a: 1 }, "toJSON", { value: () => "hidden", enumerable: false }),
  "objects without a prototype": () => Object.assign(Object.create(null), { a: 1, b: { c: 2 } }),
  "inherited keys": () => Object.create({ inherited: 1 }, { own: { value: 2, enumerable: true } }),
  "keys that are not enumerable, and symbols": () =>
    Object.defineProperty({ a: 1, [Symbol("s")]: 2 }, "hidden", { value: 3, enumerable: false }),
  "keys of all sorts": () => ({
    "": 1,
    "a b": 2,
    ž: 3,
    "🦀": 4,
    constructor: 5,
    toString: 6,
    'quo"te': 7,
    "back\\slash": 8,
    "new\nline": 9,
  }),
  "keys that are numbers": () => ({ b: 1, 10: 2, 9: 3, "-1": 4, "01": 5 }),
  "a key that is a prototype's": () => JSON.parse('{"__proto__":{"polluted":true},"a":1}'),
  "an array with holes": () => Object.assign(new Array(3), { 0: 1, 2: 3 }),
  "an array with keys": () => Object.assign([1, 2], { extra: 3 }),
  getters: () => ({
    get a() {
      return { b: 1 };
    },
  }),
  "boxed values": () => [new Number(1), new String("s"), new Boolean(false)],
  "maps and sets": () => [new Map([[1, 2]]), new Set([1])],
  "long arrays": () => Array.from({ length: 1500 }, (_, at) => ({ at, text: `number ${at}` })),
  "long texts": () => ({ a: "x".repeat(600), b: "y".repeat(5000), c: "z".repeat(511), d: "w".repeat(70_000) }),
  "deep values": () => Array.from({ length: 60 }).reduce((inner, _, at) => (at % 2 ? [inner] : { inner }), "deep"),
  "plain values": () => "text",
  nothing: () => null,
};

describe("values are what JSON makes of them", () => {
  for (const [name, make] of Object.entries(VALUES)) test(name, (t) => sameAsJson(t, () => [make()]));

  test("all of them in one batch", (t) => sameAsJson(t, () => Object.values(VALUES).map((make) => make())));

  test("random ones", (t) => {
    let seed = 7;
    const random = (below) => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 1;
      return seed % below;
    };
    const texts = ["", "a", "text", "é", "🦀", '"', "\\", "x".repeat(40), "y".repeat(700), "\ud800"];
    const make = (depth) => {
      const kind = random(depth > 3 ? 5 : 7);
      if (kind === 0) return texts[random(texts.length)];
      if (kind === 1) return random(2 ** 30) - 2 ** 29;
      if (kind === 2) return (random(1e9) - 5e8) / 977;
      if (kind === 3) return random(1e9) * 1e4;
      if (kind === 4) return [true, false, null][random(3)];
      if (kind === 5) return Array.from({ length: random(4) }, () => make(depth + 1));
      return Object.fromEntries(["a", "b", "c", "d"].filter(() => random(3) > 0).map((key) => [key, make(depth + 1)]));
    };
    return sameAsJson(t, () => {
      const values = Array.from({ length: 120 }, () => make(0));
      seed = 7;
      return values;
    });
  });
});

describe("what stays as it was", () => {
  test("binary values, among others with the same keys", async (t) => {
    const { echo } = await pair(t);
    for (let time = 0; time < TIMES; time++) {
      const [plain, binary, other] = await Promise.all([
        echo({ type: "Note", data: [1, 2] }),
        echo({ inner: Buffer.from("abc") }),
        echo({ inner: { type: "Note", data: { of: "it" } } }),
      ]);
      assert.deepEqual(plain, { type: "Note", data: [1, 2] });
      assert.ok(Buffer.isBuffer(binary.inner) && binary.inner.toString() === "abc");
      assert.deepEqual(other, { inner: { type: "Note", data: { of: "it" } } });
    }
  });

  test("a program that writes the JSON form of binary values itself has them made into Buffers", async (t) => {
    const { caller } = await pair(t, { kind: (value) => Buffer.isBuffer(value.b) });
    for (let time = 0; time < TIMES; time++) {
      assert.equal(await caller.call("callee", "kind", { b: { type: "Buffer", data: [1, 2] } }), true);
      assert.equal(await caller.call("callee", "kind", { b: { type: "Buffers", data: [1, 2] } }), false);
    }
  });

  test("errors for what cannot be sent, before and after the same keys were known", async (t) => {
    const { echo } = await pair(t);
    const cycle = { a: 1 };
    cycle.b = cycle;
    for (let time = 0; time < TIMES; time++) {
      assert.equal(await codeOf(echo(cycle)), "SERIALIZATION_FAILED");
      assert.equal(await codeOf(echo({ a: 1, b: 1n })), "SERIALIZATION_FAILED");
      assert.deepEqual(await echo({ a: 1, b: () => {} }), { a: 1 });
      assert.deepEqual(await echo({ a: 1, b: 2 }), { a: 1, b: 2 });
    }
  });

  test("what Object.prototype is given is no key of other objects", async (t) => {
    const { echo } = await pair(t);
    for (let time = 0; time < TIMES; time++) await echo({ a: 1 });
    Object.prototype.everywhere = 1;
    try {
      assert.deepEqual(Object.keys(await echo({ a: 1 })), ["a"]);
    } finally {
      delete Object.prototype.everywhere;
    }
    Object.prototype.toJSON = () => "from the prototype";
    try {
      assert.equal(await echo({ a: 1 }), "from the prototype");
    } finally {
      delete Object.prototype.toJSON;
    }
    assert.deepEqual(await echo({ a: 1 }), { a: 1 });
  });

  test("a getter that makes a call itself, and one that throws", async (t) => {
    const { caller, echo } = await pair(t);
    const inner = [];
    for (let time = 0; time < TIMES; time++) {
      const sent = {
        before: "before",
        get calls() {
          inner.push(caller.call("callee", "echo", { inner: time, text: "inner" }));
          return "middle";
        },
        after: { text: "after" },
      };
      assert.deepEqual(await echo(sent), { before: "before", calls: "middle", after: { text: "after" } });
      const throwing = {
        a: "a",
        get b() {
          throw new Error("no");
        },
      };
      assert.equal(await codeOf(echo(throwing)), "SERIALIZATION_FAILED");
    }
    for (const value of await Promise.all(inner)) assert.equal(value.text, "inner");
  });

  test("objects are plain, and each call has its own", async (t) => {
    const { echo } = await pair(t);
    for (let time = 0; time < TIMES; time++) {
      const [one, other] = await Promise.all([echo({ a: { b: [1] } }), echo({ a: { b: [1] } })]);
      assert.equal(Object.getPrototypeOf(one), Object.prototype);
      assert.ok(one !== other && one.a !== other.a && one.a.b !== other.a.b);
      one.a.b.push(2);
      one.more = true;
      delete one.a.c;
      assert.deepEqual(other, { a: { b: [1] } });
    }
  });

  test("contexts are plain objects of their own", async (t) => {
    const contexts = [];
    const { caller } = await pair(t, { context: (_, context) => void contexts.push(context) });
    for (let time = 0; time < TIMES; time++) await caller.call("callee", "context");
    for (const context of contexts) {
      assert.deepEqual(Object.keys(context), ["root", "chain", "depth", "deadline"]);
      assert.deepEqual({ ...context }.chain, ["caller", "callee"]);
      assert.deepEqual(JSON.parse(JSON.stringify(context)), context);
      assert.equal(context.depth, 2);
      assert.ok(context.deadline > Date.now());
    }
    assert.equal(new Set(contexts.map(({ root }) => root)).size, TIMES);
    assert.equal(new Set(contexts.map(({ chain }) => chain)).size, TIMES);
  });

  test("dictionaries with ever new keys", async (t) => {
    const { echo } = await pair(t);
    for (let time = 0; time < 3000; time++) {
      const value = { [`key${time}`]: time, inner: { [`other${time}`]: time } };
      assert.deepEqual(await echo(value), value);
      if (time % 10 === 0) assert.deepEqual(await echo({ steady: time }), { steady: time });
    }
  });

  test("more shapes than there is room for", async (t) => {
    const { echo } = await pair(t);
    for (let shape = 0; shape < 1200; shape++) {
      const values = Array.from({ length: 20 }, (_, at) => ({ [`s${shape}`]: at, text: `${at}` }));
      assert.deepEqual(await Promise.all(values.map(echo)), values);
    }
  });
});

/** Texts that `JSON.stringify` would not write so, and that a program may send all the same. */
const RAW = [
  '{ "a" : 1 , "b" : [ 1 , 2 ] }',
  '{\n\t"a": 1\r\n}',
  '{"a":1,"a":2}',
  '{"a":1,"b":2,"a":3}',
  '{"__proto__":{"x":1},"a":1}',
  '{"a":{"__proto__":null}}',
  '{"\\u0061":1,"b\\n":2}',
  '{"a":"\\u0041\\/\\ud83e\\udd80"}',
  '{"a":"\\ud83e"}',
  '{"a":-0,"b":-0.0,"c":0e5,"d":1E5,"e":1e+5,"f":1.50,"g":1e400,"h":-1e400,"i":1e-400}',
  '{"a":12345678901234567890,"b":0.1000000000000000055511151231257827,"c":9007199254740993}',
  '{"2":1,"1":2,"b":3,"a":4}',
  '{"a":"é\u2028🦀"}',
  '"text"',
  "[]",
  "{}",
  "-1",
  "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
];

describe("what programs write that are not ours", () => {
  for (const raw of RAW) {
    test(raw.slice(0, 60), async (t) => {
      const server = await startGateway(t);
      const seen = [];
      await connect(t, server, "callee", { take: (value) => void seen.push(value) });
      const socket = createConnection(pathOf(server));
      t.after(() => socket.destroy());
      let answers = 0;
      let refused;
      const done = new Promise((resolve) => {
        readFrames(socket, "json", (message) => {
          if (message.type === "RESPONSE") {
            refused ??= message.error;
            if (++answers === TIMES) resolve();
          }
        });
      });
      socket.write(frame({ type: "REGISTER", serviceName: "raw", methods: [], version: "1", metadata: {} }, "json"));
      await once(socket, "data");
      for (let time = 0; time < TIMES; time++) {
        const context = {
          root: "root-1-aaaaaa",
          chain: ["raw", "callee"],
          depth: 2,
          deadline: Date.now() + 30_000,
          extra: 1,
        };
        const head = `"type":"CALL","id":"req-1-${String(time).padStart(6, "0")}","from":"raw","to":"callee","method":"take"`;
        const body = Buffer.from(`{${head},"params":${raw},"context":${JSON.stringify(context)}}`);
        const length = Buffer.alloc(4);
        length.writeUInt32BE(body.length);
        socket.write(Buffer.concat([length, body]));
      }
      await done;
      assert.equal(refused, undefined);
      assert.equal(seen.length, TIMES);
      for (const value of seen) {
        assert.deepEqual(value, JSON.parse(raw));
        assert.equal(JSON.stringify(value), JSON.stringify(JSON.parse(raw)));
      }
    });
  }
});

/** Echoes an object many times; prints how often JSON was asked to do so, and how many functions were compiled. */
const PROGRAM = `
  const { IPCClient, IPCServer } = require("ipc-bro");
  let compiled = 0, stringified = 0;
  const { Function: Real, JSON: { stringify } } = globalThis;
  globalThis.Function = function (...source) { compiled += source.at(-1).includes("sku"); return new Real(...source); };
  JSON.stringify = (value, ...more) => { stringified += value?.sku !== undefined; return stringify(value, ...more); };
  (async () => {
    const server = new IPCServer({ socketPath: process.argv[1] });
    await server.start();
    const callee = new IPCClient({ serviceName: "callee", gatewayPath: process.argv[1] });
    callee.registerMethod("echo", (value) => value);
    await callee.connect();
    const caller = new IPCClient({ serviceName: "caller", gatewayPath: process.argv[1] });
    await caller.connect();
    for (let time = 0; time < 200; time++) {
      const echo = await caller.call("callee", "echo", { sku: "x", count: time });
      if (echo.sku !== "x" || echo.count !== time) throw new Error("wrong echo");
    }
    await caller.disconnect(); await callee.disconnect(); await server.stop();
    console.log(stringify({ compiled, stringified }));
  })();
`;

describe("code that is made for shapes", () => {
  async function counted(t, ...flags) {
    const server = await startGateway(t);
    const path = `${pathOf(server)}.own`;
    const { exit } = startNode(t, [...flags, "-e", PROGRAM, path], { cwd: import.meta.dirname ?? process.cwd() });
    const { code, stdout, stderr } = await exit;
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  }

  test("is compiled once for each, and then takes the place of JSON", async (t) => {
    const { compiled, stringified } = await counted(t);
    assert.equal(compiled, 1);
    assert.ok(stringified < 100, `${stringified} of 400 values were stringified`);
  });

  test("is done without where code from strings is forbidden", async (t) => {
    const { compiled } = await counted(t, "--disallow-code-generation-from-strings");
    assert.equal(compiled, 0);
  });
});
