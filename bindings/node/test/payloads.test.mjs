// What values become on their way, for each serializer and each mix of them.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { codeOf, collect, connect, MIXES, startGateway } from "./support/ipc.mjs";

const SAME = {
  null: null,
  booleans: [true, false],
  integers: [
    0,
    1,
    -1,
    127,
    128,
    -129,
    65_536,
    2 ** 31 - 1,
    -(2 ** 31),
    2 ** 32 - 1,
    2 ** 32,
    Number.MAX_SAFE_INTEGER,
    Number.MIN_SAFE_INTEGER,
  ],
  floats: [0.1, -1.5, 1e300, 5e-324, 1.7976931348623157e308],
  "empty things": ["", [], {}],
  text: "plain",
  "text that needs escapes": 'quote " backslash \\ slash / newline \n tab \t nul \u0000 \u2028 \u2029 \u007f',
  "text of many scripts": "žluťoučký 日本語 עברית 🦀 é 👩‍👩‍👧‍👦",
  "a string that looks like JSON": '{"type":"CALL","id":"x"}',
  "keys of all sorts": { "": 1, "a b": 2, ž: 3, "🦀": 4, constructor: 5, toString: 6, 0: 7 },
  "keys like a message's": {
    type: "RESPONSE",
    id: "x",
    from: "y",
    to: "z",
    status: "error",
    error: { message: "m" },
    context: {},
  },
  nested: { a: [{ b: [{ c: [[[1]]] }] }] },
  "an array of mixed values": [1, "two", null, [3], { four: 4 }, false],
  "a long array": Array.from({ length: 70_000 }, (_, n) => n),
  "many keys": Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [`key${n}`, n])),
};

async function echoing(t, { caller, callee }) {
  const server = await startGateway(t);
  let seen;
  const user = await connect(
    t,
    server,
    "user",
    {
      echo: (value) => {
        seen = value;
        return value;
      },
      kind: (value) => (value === undefined ? "undefined" : Object.prototype.toString.call(value)),
      nothing: () => {},
      fresh: (make) => new Function(`return ${make}`)(),
    },
    { serializer: callee },
  );
  const order = await connect(t, server, "order", {}, { serializer: caller });
  return {
    user,
    order,
    echo: (value) => order.call("user", "echo", value),
    call: (method, value) => order.call("user", method, value),
    seen: () => seen,
  };
}

for (const mix of MIXES) {
  const isJson = mix.caller === "json" && mix.callee === "json";
  const isMsgpack = mix.caller === "msgpack" && mix.callee === "msgpack";

  describe(`payloads, ${mix.name}`, () => {
    test("that come back as they were sent", async (t) => {
      const { echo, seen } = await echoing(t, mix);
      for (const [name, value] of Object.entries(SAME)) {
        assert.deepEqual(await echo(value), value, name);
        assert.deepEqual(seen(), value, name);
      }
    });

    test("undefined stays undefined, as parameters and as a result", async (t) => {
      const { call } = await echoing(t, mix);
      assert.equal(await call("kind", undefined), "undefined");
      assert.equal(await call("nothing", {}), undefined);
      assert.equal(await call("echo"), undefined);
      assert.equal(await call("kind", null), "[object Null]");
    });

    test("undefined members are left out or kept, never null", async (t) => {
      const { echo } = await echoing(t, mix);
      const back = await echo({ a: undefined, b: 1 });
      assert.equal(back.a, undefined);
      assert.equal(back.b, 1);
    });

    test("NaN and the infinities: null in JSON, themselves in msgpack", async (t) => {
      const { echo } = await echoing(t, mix);
      const expected = isMsgpack ? [Number.NaN, Infinity, -Infinity] : [null, null, null];
      assert.deepEqual(await echo([Number.NaN, Infinity, -Infinity]), expected);
    });

    test("Date: ISO text in JSON, a Date in msgpack", async (t) => {
      const { echo } = await echoing(t, mix);
      const date = new Date("2024-02-29T12:34:56.789Z");
      const back = await echo({ date });
      if (isMsgpack) assert.deepEqual(back, { date });
      else assert.deepEqual(back, { date: "2024-02-29T12:34:56.789Z" });
    });

    test("bigint: refused in JSON, digits of any size in msgpack", async (t) => {
      const { echo, call } = await echoing(t, mix);
      if (mix.caller === "json") {
        assert.equal(await codeOf(echo(12n)), "SERIALIZATION_FAILED");
        assert.equal(await codeOf(echo({ deep: [12n] })), "SERIALIZATION_FAILED");
      }
      if (isMsgpack) assert.equal(BigInt(await echo(2n ** 63n - 1n)), 2n ** 63n - 1n);
      if (mix.callee === "json") assert.equal(await codeOf(call("fresh", "12n")), "SERIALIZATION_FAILED");
    });

    test("a Buffer arrives as a Buffer, alone and inside of others", async (t) => {
      const { echo, seen } = await echoing(t, mix);
      const bytes = Buffer.from([0, 1, 2, 127, 128, 254, 255]);
      for (const [value, pick] of [
        [bytes, (v) => v],
        [{ file: { name: "x", bytes } }, (v) => v.file.bytes],
        [[bytes], (v) => v[0]],
      ]) {
        const back = pick(await echo(value));
        assert.ok(back instanceof Uint8Array, "is binary");
        assert.deepEqual(Buffer.from(back), bytes);
        assert.ok(pick(seen()) instanceof Uint8Array);
      }
      assert.equal((await echo(Buffer.alloc(0))).length, 0);
    });

    test("typed arrays arrive as the bytes they are", async (t) => {
      const { echo } = await echoing(t, mix);
      const views = [
        new Uint8Array([1, 2, 255]),
        new Uint8ClampedArray([1, 300]),
        new Int8Array([-1, 1]),
        new Uint16Array([1, 65_535]),
        new Int32Array([-5, 2 ** 30]),
        new Float32Array([1.5, -2.25]),
        new Float64Array([Math.PI]),
        new BigInt64Array([-1n, 2n ** 60n]),
        new DataView(new Uint8Array([9, 8, 7]).buffer, 1, 2),
        new Uint8Array([1, 2, 3, 4, 5]).subarray(1, 3),
      ];
      for (const view of views) {
        const expected = Buffer.from(view.buffer, view.byteOffset, view.byteLength);
        for (const value of [view, { deep: view }]) {
          const back = await echo(value);
          const got = value === view ? back : back.deep;
          assert.ok(got instanceof Uint8Array, view.constructor.name);
          assert.deepEqual(Buffer.from(got), expected, view.constructor.name);
        }
      }
      assert.deepEqual(Buffer.from(await echo(new Uint8Array([5, 6]).buffer)), Buffer.from([5, 6]));
    });

    test("binary of 1 MiB", async (t) => {
      const { echo } = await echoing(t, mix);
      const bytes = Buffer.alloc(1 << 20, "0123456789abcdef");
      assert.ok(bytes.equals(Buffer.from(await echo(bytes))));
    });

    test("strings of 1 MiB, of one, two, three and four bytes a character", async (t) => {
      const { echo } = await echoing(t, mix);
      for (const letter of ["x", "é", "語", "🦀"]) {
        const text = letter.repeat((1 << 20) / letter.length);
        assert.ok((await echo(text)) === text, letter);
        assert.ok((await echo({ text })).text === text, letter);
      }
    });

    test("strings around every limit of the inside", async (t) => {
      const { echo } = await echoing(t, mix);
      for (const length of [31, 32, 255, 256, 65_535, 65_536, 65_537]) {
        for (const letter of ["x", "\n", "語"]) {
          const text = letter.repeat(length);
          assert.ok((await echo(text)) === text, `${length} of ${JSON.stringify(letter)}`);
          assert.ok((await echo([text, 1]))[0] === text);
        }
      }
    });

    test("lone surrogates never break a connection", async (t) => {
      const { echo, call } = await echoing(t, mix);
      const text = "a\ud800b\udc00c";
      const back = await echo(text);
      if (isJson) assert.equal(back, text);
      else assert.match(back, /^a.+b.+c$/s);
      const { name, [text]: keyed } = await echo({ name: text, [text]: 1 });
      assert.equal(typeof name, "string");
      if (isJson) assert.equal(keyed, 1);
      assert.equal(await call("kind", 1), "[object Number]");
    });

    test("-0 keeps its sign where the encoding can", async (t) => {
      const { echo } = await echoing(t, mix);
      assert.equal(await echo(-0), 0);
    });

    test("toJSON, class instances, Map and Set follow the serializer", async (t) => {
      const { echo } = await echoing(t, mix);
      class Point {
        x = 1;
        y = 2;
      }
      const { x, y } = await echo(new Point());
      assert.deepEqual([x, y], [1, 2]);
      if (mix.caller === "json") {
        assert.equal(await echo({ toJSON: () => "as text" }), "as text");
        assert.deepEqual(await echo({ map: new Map([["a", 1]]), set: new Set([1]) }), { map: {}, set: {} });
      }
    });

    test("a hundred levels of nesting pass; what is deeper fails alone", async (t) => {
      const { echo, call, user, order } = await echoing(t, mix);
      const lost = [collect(user, "disconnected"), collect(order, "disconnected")];
      const deep = (levels) => {
        let value = 1;
        for (let n = 0; n < levels; n++) value = [value];
        return value;
      };
      assert.deepEqual(await echo(deep(100)), deep(100));
      const beside = echo("beside");
      assert.equal(await codeOf(echo(deep(1000))), "SERIALIZATION_FAILED");
      assert.equal(
        await codeOf(call("fresh", "JSON.parse('['.repeat(1000) + ']'.repeat(1000))")),
        "SERIALIZATION_FAILED",
      );
      assert.equal(await beside, "beside");
      assert.deepEqual(lost, [[], []]);
    });

    test("keys named __proto__ change nobody's prototype", async (t) => {
      const { echo } = await echoing(t, mix);
      const back = await echo(JSON.parse('{"__proto__":{"polluted":true},"a":1}'));
      assert.equal(back.a, 1);
      assert.equal({}.polluted, undefined);
      assert.equal(back.polluted, undefined);
      assert.equal(Object.getPrototypeOf(back), Object.prototype);
    });

    test("results are the caller's own: nothing is shared with the callee", async (t) => {
      const { echo, seen } = await echoing(t, mix);
      const value = { list: [1, 2] };
      const back = await echo(value);
      back.list.push(3);
      assert.deepEqual(
        [value.list, seen().list],
        [
          [1, 2],
          [1, 2],
        ],
      );
    });

    test("parameters are taken when call() is called", async (t) => {
      const { echo } = await echoing(t, mix);
      const value = { n: 1 };
      const bytes = Buffer.from([1]);
      const [first, second] = [echo(value), echo(bytes)];
      value.n = 2;
      bytes[0] = 2;
      assert.deepEqual(await first, { n: 1 });
      assert.deepEqual(Buffer.from(await second), Buffer.from([1]));
    });

    test("many values of different sizes in one batch", async (t) => {
      const { echo } = await echoing(t, mix);
      const values = Array.from({ length: 300 }, (_, n) => {
        const kinds = [
          n,
          "x".repeat(n * 250),
          { n, text: "é".repeat(n * 100) },
          Buffer.alloc(n * 30, n),
          undefined,
          null,
        ];
        return kinds[n % kinds.length];
      });
      const back = await Promise.all(values.map(echo));
      back.forEach((value, n) => {
        if (Buffer.isBuffer(values[n])) assert.ok(values[n].equals(Buffer.from(value)));
        else assert.deepEqual(value, values[n]);
      });
    });
  });
}

test("Buffers of results do not keep or share the memory of their batch", async (t) => {
  const { echo } = await echoing(t, { caller: "msgpack", callee: "msgpack" });
  const [a, b] = await Promise.all([echo(Buffer.from("first")), echo(Buffer.from("second"))]);
  a.fill(0);
  assert.equal(Buffer.from(b).toString(), "second");
});
