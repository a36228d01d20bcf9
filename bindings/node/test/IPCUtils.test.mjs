// Every documented function of IPCUtils.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { IPCError, IPCUtils } from "ipc-bro";
import { frame } from "./support/wire.mjs";

const context = { root: "root-1-abcdef", chain: ["order"], depth: 1, deadline: Date.now() + 60_000 };
const call = IPCUtils.createCallMessage("order", "user", "find", { id: 1 }, context);

function throwsCode(code, action) {
  assert.throws(action, (error) => error instanceof IPCError && error.code === code);
}

describe("serialization", () => {
  test("serialize() puts a length in front, and is JSON by default", () => {
    const bytes = IPCUtils.serialize(call);
    assert.equal(bytes.readUInt32BE(0), bytes.length - 4);
    assert.deepEqual(JSON.parse(bytes.subarray(4).toString()), call);
    assert.deepEqual(bytes, frame(call, "json"));
  });

  test("deserialize() reads what serialize() wrote, in either encoding", () => {
    for (const encoding of ["json", "msgpack"]) {
      assert.deepEqual(IPCUtils.deserialize(IPCUtils.serialize(call, encoding)), call);
      assert.deepEqual(IPCUtils.deserialize(frame(call, encoding)), call);
    }
  });

  test("setSerializer() changes what serialize() uses when it is not told", () => {
    IPCUtils.setSerializer("msgpack");
    try {
      assert.notEqual(IPCUtils.serialize(call)[4], 0x7b);
    } finally {
      IPCUtils.setSerializer("json");
    }
    assert.equal(IPCUtils.serialize(call)[4], 0x7b);
  });

  test("serialize() refuses what cannot be sent", () => {
    const cycle = {};
    cycle.self = cycle;
    throwsCode("SERIALIZATION_FAILED", () => IPCUtils.serialize({ type: "CALL", params: cycle }, "json"));
    throwsCode("SERIALIZATION_FAILED", () => IPCUtils.serialize({ type: "CALL", params: 1n }, "json"));
    throwsCode("PAYLOAD_TOO_LARGE", () => IPCUtils.serialize({ type: "CALL", params: "x".repeat(33_554_432) }));
  });

  test("deserialize() refuses half a message and what is none", () => {
    const bytes = IPCUtils.serialize(call);
    throwsCode("DESERIALIZATION_FAILED", () => IPCUtils.deserialize(bytes.subarray(0, 3)));
    throwsCode("DESERIALIZATION_FAILED", () => IPCUtils.deserialize(bytes.subarray(0, bytes.length - 1)));
    throwsCode("DESERIALIZATION_FAILED", () => IPCUtils.deserialize(Buffer.from("000000027b78", "hex")));
  });

  test("readMessageLength() reads the length alone", () => {
    assert.equal(IPCUtils.readMessageLength(Buffer.from([0, 0, 0, 0x32])), 50);
    assert.equal(IPCUtils.readMessageLength(Buffer.from("ffffffff", "hex")), 0xffffffff);
    throwsCode("DESERIALIZATION_FAILED", () => IPCUtils.readMessageLength(Buffer.from([0, 0, 0])));
  });

  test("hasCompleteMessage() says whether all of it is there", () => {
    const bytes = IPCUtils.serialize(call);
    for (const length of [0, 3, 4, bytes.length - 1]) {
      assert.equal(IPCUtils.hasCompleteMessage(bytes.subarray(0, length)), false, String(length));
    }
    assert.equal(IPCUtils.hasCompleteMessage(bytes), true);
    assert.equal(IPCUtils.hasCompleteMessage(Buffer.concat([bytes, bytes])), true);
  });

  test("splitMessages() takes whole messages of either encoding and leaves the rest", () => {
    const bytes = Buffer.concat([frame(call, "json"), frame(call, "msgpack"), frame(call, "json")]);
    for (let cut = 0; cut <= bytes.length; cut += 7) {
      const first = IPCUtils.splitMessages(bytes.subarray(0, cut));
      const second = IPCUtils.splitMessages(Buffer.concat([first.remaining, bytes.subarray(cut)]));
      assert.deepEqual([...first.messages, ...second.messages], [call, call, call]);
      assert.equal(second.remaining.length, 0);
    }
    assert.deepEqual(IPCUtils.splitMessages(Buffer.alloc(0)).messages, []);
    throwsCode("PAYLOAD_TOO_LARGE", () => IPCUtils.splitMessages(Buffer.from("7fffffff", "hex")));
  });

  test("splitMessages() of ten thousand messages is not quadratic", () => {
    const bytes = Buffer.concat(Array(10_000).fill(frame(call, "json")));
    assert.equal(IPCUtils.splitMessages(bytes).messages.length, 10_000);
  });
});

describe("ids", () => {
  test("generateId() is prefix, milliseconds and six characters", () => {
    assert.match(IPCUtils.generateId(), /^req-\d{13}-[0-9a-z]{6}$/);
    assert.match(IPCUtils.generateId("job"), /^job-\d{13}-[0-9a-z]{6}$/);
  });

  test("generateRootId() says that it is a root", () => {
    assert.match(IPCUtils.generateRootId(), /^root-\d{13}-[0-9a-z]{6}$/);
  });

  test("ids differ", () => {
    assert.ok(new Set(Array.from({ length: 1000 }, () => IPCUtils.generateId())).size > 990);
  });
});

describe("contexts", () => {
  test("createContext() begins a chain", () => {
    const before = Date.now();
    const made = IPCUtils.createContext("order", 5000);
    assert.deepEqual([made.chain, made.depth], [["order"], 1]);
    assert.match(made.root, /^root-/);
    assert.ok(made.deadline >= before + 5000 && made.deadline <= Date.now() + 5000);
  });

  test("createContext() gives 30 seconds by default", () => {
    const left = IPCUtils.createContext("order").deadline - Date.now();
    assert.ok(left > 29_000 && left <= 30_000, String(left));
  });

  test("extendContext() goes one step deeper with the same root and deadline", () => {
    const user = IPCUtils.extendContext(context, "user");
    const role = IPCUtils.extendContext(user, "role");
    assert.deepEqual(role, { ...context, chain: ["order", "user", "role"], depth: 3 });
    assert.deepEqual(context.chain, ["order"], "the original is untouched");
  });

  test("validateContext() accepts contexts and says what is wrong with others", () => {
    assert.equal(IPCUtils.validateContext(context), true);
    const bad = [
      null,
      undefined,
      7,
      "x",
      {},
      { ...context, root: 7 },
      { ...context, root: "" },
      { ...context, chain: "order" },
      { ...context, chain: [7] },
      { ...context, depth: "1" },
      { ...context, depth: -1 },
      { ...context, depth: 1.5 },
      { ...context, deadline: "soon" },
      { ...context, deadline: Number.NaN },
    ];
    for (const value of bad) throwsCode("INVALID_CONTEXT", () => IPCUtils.validateContext(value));
  });
});

describe("deadlines", () => {
  test("isDeadlineExceeded() and getRemainingTime()", () => {
    const past = { ...context, deadline: Date.now() - 10 };
    assert.equal(IPCUtils.isDeadlineExceeded(context), false);
    assert.equal(IPCUtils.isDeadlineExceeded(past), true);
    assert.equal(IPCUtils.getRemainingTime(past), 0);
    const left = IPCUtils.getRemainingTime({ ...context, deadline: Date.now() + 1000 });
    assert.ok(left > 900 && left <= 1000, String(left));
  });

  test("calculateDeadline() is now plus the duration", () => {
    const before = Date.now();
    const deadline = IPCUtils.calculateDeadline(250);
    assert.ok(deadline >= before + 250 && deadline <= Date.now() + 250);
  });
});

describe("messages", () => {
  test("createCallMessage()", () => {
    const { id, ...rest } = call;
    assert.match(id, /^req-/);
    assert.deepEqual(rest, { type: "CALL", from: "order", to: "user", method: "find", params: { id: 1 }, context });
  });

  test("createSuccessResponse() answers the call", () => {
    const { id } = call;
    assert.deepEqual(IPCUtils.createSuccessResponse(call, [1]), {
      type: "RESPONSE",
      id,
      from: "user",
      to: "order",
      status: "success",
      data: [1],
      context,
    });
  });

  test("createErrorResponse() takes over message, code and stack", () => {
    const error = new IPCError("gone", "MINE");
    const response = IPCUtils.createErrorResponse(call, error);
    assert.deepEqual(
      [response.type, response.status, response.from, response.to],
      ["RESPONSE", "error", "user", "order"],
    );
    assert.deepEqual(response.error, { message: "gone", code: "MINE", stack: error.stack });
    assert.equal(response.id, call.id);
    assert.deepEqual(IPCUtils.createErrorResponse(call, "only text").error, { message: "only text" });
    assert.equal("code" in IPCUtils.createErrorResponse(call, new Error("plain")).error, false);
  });

  test("validateMessage() accepts every type and refuses what lacks fields", () => {
    const good = [
      call,
      IPCUtils.createSuccessResponse(call, 1),
      { type: "REGISTER", serviceName: "a", methods: [] },
      { type: "HEARTBEAT", from: "a", timestamp: 1 },
    ];
    for (const message of good) assert.equal(IPCUtils.validateMessage(message), true);
    for (const bad of [null, 7, {}, { type: "OTHER" }, { type: "CALL" }, { ...call, to: 7 }, { type: "REGISTER" }]) {
      throwsCode("INVALID_MESSAGE", () => IPCUtils.validateMessage(bad));
    }
  });

  test("isMaxDepthExceeded() is above 100 unless told otherwise", () => {
    assert.equal(IPCUtils.isMaxDepthExceeded({ ...context, depth: 100 }), false);
    assert.equal(IPCUtils.isMaxDepthExceeded({ ...context, depth: 101 }), true);
    assert.equal(IPCUtils.isMaxDepthExceeded({ ...context, depth: 3 }, 2), true);
  });
});

describe("for people", () => {
  test("formatMessageForLog() is one line and cuts long payloads", () => {
    const text = IPCUtils.formatMessageForLog({ ...call, params: "x".repeat(10_000) });
    assert.ok(text.length < 1000 && text.includes("find") && text.includes("..."), text);
    assert.ok(!text.includes("\n"));
    assert.ok(IPCUtils.formatMessageForLog({ ...call, params: "x".repeat(500) }, 1000).includes("x".repeat(500)));
  });

  test("formatMessageForLog() prints whatever it is given", () => {
    const cycle = { type: "CALL", params: {} };
    cycle.params.self = cycle;
    for (const value of [cycle, { params: 1n }, { data: () => {} }, {}]) {
      assert.equal(typeof IPCUtils.formatMessageForLog(value), "string");
    }
  });

  test("formatContext() shows the chain and the depth", () => {
    const text = IPCUtils.formatContext(IPCUtils.extendContext(context, "user"));
    assert.match(text, /order.*user/);
    assert.match(text, /2/);
  });
});

describe("waiting", () => {
  test("calculateBackoff() doubles up to its maximum", () => {
    assert.deepEqual(
      [0, 1, 2, 3].map((attempt) => IPCUtils.calculateBackoff(attempt)),
      [1000, 2000, 4000, 8000],
    );
    assert.equal(IPCUtils.calculateBackoff(50), 30_000);
    assert.equal(IPCUtils.calculateBackoff(2, 10, 1000), 40);
    assert.equal(IPCUtils.calculateBackoff(20, 10, 1000), 1000);
  });

  test("sleep() takes its time", async () => {
    const before = performance.now();
    await IPCUtils.sleep(20);
    assert.ok(performance.now() - before >= 18);
  });

  test("createTimeoutPromise() rejects with TIMEOUT", async () => {
    await assert.rejects(
      IPCUtils.createTimeoutPromise(5),
      (error) => error instanceof IPCError && error.code === "TIMEOUT",
    );
    await assert.rejects(IPCUtils.createTimeoutPromise(5, "my words"), { message: "my words" });
  });
});
