// Writes vectors/v2.json: frames of version 2, built from section 8 of docs/protocol.md and nothing else.
//
//   node v2.mjs

import { writeFileSync } from "node:fs";

const KINDS = {
  CALL: 1, RESPONSE: 2, ERROR: 3, CANCEL: 4, NOTIFY: 5, RESOLVE: 6, NAME: 8, PING: 9, PONG: 10, DRAIN: 11,
  STATS: 12, LANE_OFFER: 16, LANE_READY: 17, LANE_CLOSE: 18,
};
const utf8 = (text) => Buffer.from(text, "utf8");
const u16 = (value) => { const out = Buffer.alloc(2); out.writeUInt16LE(value); return out; };
const u32 = (value) => { const out = Buffer.alloc(4); out.writeUInt32LE(value); return out; };
const u64 = (value) => { const out = Buffer.alloc(8); out.writeBigUInt64LE(BigInt(value)); return out; };

// A frame of these bytes behind the mark.
function framed(...parts) {
  const body = Buffer.concat([Buffer.from([0xb2]), ...parts]);
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(body.length);
  return Buffer.concat([prefix, body]);
}

const head = (kind, { flags = 0, codec = 0, id = 0 }) => Buffer.concat([Buffer.from([kind, flags, codec]), u64(id)]);

function section({ root, chain, depth }) {
  const names = chain.map((name) => Buffer.concat([u16(utf8(name).length), utf8(name)]));
  return Buffer.concat([u16(utf8(root).length), u16(chain.length), u32(depth), utf8(root), ...names]);
}

// A CALL or NOTIFY whose method and section are given as bytes.
function rawCall(fields, method, context, payload, spare = 0) {
  const { kind = "CALL", origin = 0, root = 0, peer = 0, timeoutMs = 0 } = fields;
  return framed(
    head(KINDS[kind], fields), u64(origin), u64(root), u32(peer), u32(timeoutMs),
    u16(method.length), u16(spare), u32(context.length), method, context, payload,
  );
}

function build(frame) {
  const payload = Buffer.from(frame.payload ?? "", "hex");
  switch (frame.kind) {
    case "CALL":
    case "NOTIFY":
      return rawCall(frame, utf8(frame.method), frame.section ? section(frame.section) : Buffer.alloc(0), payload);
    case "ERROR": {
      const [code, message, stack] = [frame.code, frame.message, frame.stack].map(utf8);
      return framed(head(KINDS.ERROR, frame), u16(code.length), u16(0), u32(message.length), code, message, stack);
    }
    case "RESOLVE":
    case "NAME":
      return framed(head(KINDS[frame.kind], frame), utf8(frame.name));
    default:
      return framed(head(KINDS[frame.kind], frame), payload);
  }
}

const vectors = [];
const good = (name, frame, note) => vectors.push({ name, hex: build(frame).toString("hex"), frame, note });
const same = (name, bytes, frame, note) => vectors.push({ name, hex: bytes.toString("hex"), frame, isExact: false, note });
const bad = (name, bytes, error, note) => vectors.push({ name, hex: bytes.toString("hex"), error, note });
const json = (value) => utf8(JSON.stringify(value)).toString("hex");

const call = { kind: "CALL", flags: 0, codec: 1, id: "4294967303", origin: "0", root: "0", peer: 0, timeoutMs: 5000, method: "getUserById", payload: json({ id: 7 }) };
const chain = { root: "root-1699005123456-a1b2c3", chain: ["order", "user", "role"], depth: 3 };
good("CALL that begins a chain", call, "as the caller sends it");
good("CALL that begins a chain, to the callee", { ...call, id: "12884901889", origin: "4294967303", root: "7126186345611198464", peer: 3, timeoutMs: 4999 });
good("CALL made for another", { ...call, origin: "12884901889", peer: 1023 });
good("CALL with a section", { ...call, section: chain });
good("CALL with a section, to the callee", { ...call, id: "1", origin: "18446744073709551615", section: chain });
good("CALL without params", { ...call, codec: 0, payload: "" });
good("CALL with msgpack", { ...call, codec: 2, payload: "81a2696407" });
good("CALL with a codec that nobody knows", { ...call, codec: 200, payload: "00ff" });
good("CALL that takes as long as the gateway gives", { ...call, timeoutMs: 0 });
good("CALL with all bits set in its numbers", { ...call, id: "18446744073709551615", origin: "18446744073709551615", root: "18446744073709551615", peer: 4294967295, timeoutMs: 4294967295 });
good("CALL of a method that is not ASCII", { ...call, method: "löschen" });
good("CALL of the longest method", { ...call, method: "m".repeat(255) });
good("CALL with the longest root and names", { ...call, section: { root: "r".repeat(255), chain: ["n".repeat(255), "ü"], depth: 4294967295 } });
good("CALL with the longest chain", { ...call, section: { root: "r", chain: Array(256).fill("a"), depth: 100 } });
good("NOTIFY", { ...call, kind: "NOTIFY", id: "0" });
good("NOTIFY with a section", { ...call, kind: "NOTIFY", id: "0", section: chain });
good("RESPONSE", { kind: "RESPONSE", flags: 0, codec: 1, id: "12884901889", payload: json([1, null]) });
good("RESPONSE with msgpack", { kind: "RESPONSE", flags: 0, codec: 2, id: "12884901889", payload: "c0" });
good("RESPONSE without a result", { kind: "RESPONSE", flags: 0, codec: 0, id: "12884901889", payload: "" });
const error = { kind: "ERROR", flags: 0, id: "5", code: "OUT_OF_STOCK", message: "nichts übrig", stack: "Error: nichts übrig\n    at order" };
good("ERROR of a callee", error);
good("ERROR of the gateway", { ...error, flags: 1, code: "TIMEOUT", message: "no answer within 50 ms", stack: "" });
good("ERROR without code and stack", { ...error, code: "", stack: "" });
good("ERROR that says nothing", { ...error, code: "", message: "", stack: "" });
good("CANCEL, given up", { kind: "CANCEL", flags: 0, id: "4294967303" });
good("CANCEL, deadline passed", { kind: "CANCEL", flags: 1, id: "4294967303" });
good("CANCEL, caller gone", { kind: "CANCEL", flags: 2, id: "4294967303" });
good("RESOLVE", { kind: "RESOLVE", flags: 0, id: "0", name: "user" });
good("RESOLVE of the longest name", { kind: "RESOLVE", flags: 0, id: "1023", name: "ü".repeat(127) });
good("NAME", { kind: "NAME", flags: 0, id: "4095", name: "zahlung-ü" });
good("NAME that forgets", { kind: "NAME", flags: 1, id: "0", name: "order" });
good("PING", { kind: "PING", flags: 0, id: "18446744073709551615" });
good("PONG", { kind: "PONG", flags: 0, id: "18446744073709551615" });
good("DRAIN", { kind: "DRAIN", flags: 0, id: "0" });
for (const kind of ["STATS", "LANE_OFFER", "LANE_READY", "LANE_CLOSE"]) {
  good(kind, { kind, flags: 0, id: "9", payload: "0102" }, "what is in it, docs/lanes.md says");
}
const plain = Buffer.from(call.payload, "hex");
const method = utf8(call.method);
const nothing = Buffer.alloc(0);
same("CALL with flags and spare bytes that mean nothing", rawCall({ ...call, flags: 0xff }, method, nothing, plain, 0xffff), call);
same("PING with more behind it", framed(head(KINDS.PING, { id: 1 }), utf8("more")), { kind: "PING", flags: 0, id: "1" });
for (const kind of [0, 7, 13, 32, 255]) {
  same(`kind ${kind} that may be skipped`, framed(head(kind, { flags: 0x80, id: 1 }), utf8("later")), { kind: "IGNORED" });
  bad(`kind ${kind} that may not be skipped`, framed(head(kind, { flags: 0x7f, id: 1 }), utf8("later")), "UnknownKind");
}

const whole = build(call);
const cut = (bytes) => framed(whole.subarray(5, bytes));
bad("only the mark", framed(), "Short");
bad("no whole header", cut(15), "Short");
bad("CALL without its own header", cut(16), "Short");
bad("CALL without the last byte of its header", cut(47), "Short");
bad("CALL whose method is cut off", cut(48 + 10), "Short");
bad("CALL whose section is cut off", framed(build({ ...call, section: chain, payload: "" }).subarray(5, -1)), "Short");
bad("CALL without a method", rawCall(call, nothing, nothing, plain), "BadName");
bad("CALL of a method that is too long", rawCall(call, utf8("m".repeat(256)), nothing, plain), "BadName");
bad("CALL of a method that is not UTF-8", rawCall(call, Buffer.from([0x67, 0xff]), nothing, plain), "BadName");
bad("NOTIFY without a method", rawCall({ ...call, kind: "NOTIFY" }, nothing, nothing, plain), "BadName");

const context = (name, bytes) => bad(`section ${name}`, rawCall(call, method, bytes, plain), "BadContext");
const goodSection = section(chain);
context("shorter than its header", goodSection.subarray(0, 7));
context("that ends in the root", goodSection.subarray(0, 20));
context("that ends in a name", goodSection.subarray(0, -1));
context("with more behind it", Buffer.concat([goodSection, Buffer.from([0])]));
context("without a root", section({ ...chain, root: "" }));
context("with a root that is too long", section({ ...chain, root: "r".repeat(256) }));
context("with an empty chain", section({ ...chain, chain: [] }));
context("with a chain that is too long", section({ ...chain, chain: Array(257).fill("a") }));
context("with a name that is too long", section({ ...chain, chain: ["n".repeat(256)] }));
context("of depth 0", section({ ...chain, depth: 0 }));
const broken = (at) => { const bytes = Buffer.from(goodSection); bytes[at] = 0xff; return bytes; };
context("with a root that is not UTF-8", broken(8));
context("with a name that is not UTF-8", broken(goodSection.length - 1));

for (const kind of ["RESOLVE", "NAME"]) {
  const name = (bytes) => framed(head(KINDS[kind], { id: 1 }), bytes);
  bad(`${kind} without a name`, name(nothing), "BadName");
  bad(`${kind} of a name that is too long`, name(utf8("n".repeat(256))), "BadName");
  bad(`${kind} of a name that is not UTF-8`, name(Buffer.from([0xc3])), "BadName");
}
const failure = (code, message, rest) => framed(head(KINDS.ERROR, { id: 5 }), u16(code), u16(0), u32(message), rest);
bad("ERROR that ends in its lengths", framed(head(KINDS.ERROR, { id: 5 }), u16(0), u16(0), u16(0)), "Short");
bad("ERROR whose code is cut off", failure(3, 0, utf8("no")), "Short");
bad("ERROR whose message is cut off", failure(1, 4294967295, utf8("no")), "Short");
bad("ERROR with a code that is not UTF-8", failure(1, 1, Buffer.from([0xff, 0x61])), "BadText");
bad("ERROR with a message that is not UTF-8", failure(1, 1, Buffer.from([0x61, 0xff])), "BadText");
bad("ERROR with a stack that is not UTF-8", failure(1, 1, Buffer.from([0x61, 0x61, 0xff])), "BadText");
bad("ERROR with a letter cut in two", failure(1, 1, utf8("ü")), "BadText");

const lines = vectors.map((vector) => `  ${JSON.stringify(vector)}`);
writeFileSync(new URL("../vectors/v2.json", import.meta.url), `[\n${lines.join(",\n")}\n]\n`);
