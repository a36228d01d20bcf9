// Writes conformance/vectors/*.json: `npm install`, then `node record.mjs`. See ../README.md for the format.
import { deepStrictEqual } from "node:assert";
import { writeFileSync } from "node:fs";
import { Packr, pack, unpack } from "msgpackr";
import { jsonText, msgpackBytes } from "./rules.mjs";

const T = 1699005123456;
const context = { root: "root-1699005123456-k3x9q1", chain: ["order", "user"], depth: 2, deadline: T + 30000 };

const hexOf = (bytes) => Buffer.from(bytes).toString("hex");
const bytesOf = (hex) => Buffer.from(hex.replaceAll(" ", ""), "hex");

// --- Recording --------------------------------------------------------------------------------------------------------

// A value as msgpackr packs it, and the JSON that it becomes.
const packed = (name, value, extra = {}) => ({
  name,
  encoding: "msgpack",
  hex: hexOf(pack(value)),
  json: jsonText(value),
  ...extra,
});

// Bytes made by hand, and the JSON that they become.
const msgpack = (name, hex, json, extra = {}) => ({ name, encoding: "msgpack", hex: hexOf(bytesOf(hex)), json, ...extra });

// A JSON text, and the msgpack that it becomes; msgpackr must read that as JSON.parse reads the text.
function text(name, source, extra = {}) {
  const bytes = msgpackBytes(JSON.parse(source));
  const parsed = JSON.parse(source, (_, value) => (typeof value === "string" ? value.toWellFormed() : value));
  deepStrictEqual(unpack(bytes), parsed, name);
  return { name, encoding: "json", hex: hexOf(Buffer.from(source)), msgpack: hexOf(bytes), ...extra };
}

// Likewise, with the msgpack spelt out, where JSON.parse would lose what matters.
const textTo = (name, source, hex, extra = {}) => ({
  name,
  encoding: "json",
  hex: hexOf(Buffer.from(source)),
  msgpack: hexOf(bytesOf(hex)),
  ...extra,
});

const refusedText = (name, source, error, extra = {}) => ({ name, encoding: "json", hex: hexOf(Buffer.from(source)), error, ...extra });
const refused = (name, hex, error, extra = {}) => ({ name, encoding: "msgpack", hex: hexOf(bytesOf(hex)), error, ...extra });

// A message in both encodings. JSON leaves `undefined` out by itself.
const both = (name, message, extra = {}) => [
  text(`${name}, JSON`, JSON.stringify(message), extra),
  packed(`${name}, msgpack`, message, extra),
];

// --- messages.json: every v1 message ----------------------------------------------------------------------------------

const register = { type: "REGISTER", serviceName: "order", methods: ["create", "list"], version: "1.0.0", metadata: {} };
const call = { type: "CALL", id: "req-1699005123456-a1b2c3", from: "order", to: "user", method: "find", params: { id: 7 }, context };
const success = { type: "RESPONSE", id: call.id, from: "user", to: "order", status: "success", data: { name: "Zoë" }, context };
const failure = { ...success, status: "error", data: undefined, error: { message: "no such user", code: "USER_UNKNOWN", stack: "Error: no such user\n    at find" } };
const heartbeat = { type: "HEARTBEAT", from: "order", timestamp: T };
const notice = { type: "ERROR", error: { message: "Service already registered: order", code: "DUPLICATE_SERVICE" }, timestamp: T };
const without = (message, ...fields) => Object.fromEntries(Object.entries(message).filter(([field]) => !fields.includes(field)));

const messages = [
  ...both("REGISTER", register),
  ...both("REGISTER without methods", { ...register, methods: [] }),
  ...both("REGISTER of a pooled connection", { ...register, metadata: { poolIndex: 1, poolSize: 4, region: "eu" } }),
  ...both("REGISTER without version and metadata", without(register, "version", "metadata")),
  ...both("REGISTER_ACK", { type: "REGISTER_ACK" }),
  ...both("REGISTER_ACK with unknown fields", { type: "REGISTER_ACK", bro: { v: 2, lanes: [true, null] } }),
  ...both("CALL", call),
  ...both("CALL, params undefined", { ...call, params: undefined }),
  ...both("CALL, params null", { ...call, params: null }),
  ...both("CALL, params a string", { ...call, params: "type" }),
  ...both("CALL without context", { ...call, context: undefined }),
  ...both("CALL, context null", { ...call, context: null }),
  ...both("CALL with a chain as old clients write it", { ...call, context: { ...context, chain: ["order", "order"] } }),
  ...both("CALL with unknown fields", { ...call, priority: 3, trace: { id: "t-1", tags: [] } }),
  ...both("CALL, header words inside params", { ...call, params: { type: "REGISTER", id: "x", from: "y", context: { root: 1 } } }),
  ...both("CALL, names outside ASCII", { ...call, from: "заказ", to: "用户", method: "найти🔎" }),
  ...both("CALL, fields in another order", Object.fromEntries(Object.entries(call).reverse())),
  ...both("RESPONSE success", success),
  ...both("RESPONSE success, data undefined", { ...success, data: undefined }),
  ...both("RESPONSE success, data null", { ...success, data: null }),
  ...both("RESPONSE success, data false", { ...success, data: false }),
  ...both("RESPONSE success without context", without(success, "context")),
  ...both("RESPONSE error", failure),
  ...both("RESPONSE error without code", { ...failure, error: { message: "boom" } }),
  ...both("RESPONSE error, code and stack undefined", { ...failure, error: { message: "boom", code: undefined, stack: undefined } }),
  ...both("HEARTBEAT", heartbeat),
  ...both("ERROR about the connection", notice),
  ...both("ERROR about a call", { ...notice, id: call.id, error: { ...notice.error, stack: "Error" } }),
  text("CALL with white space everywhere", ` \r\n\t${JSON.stringify(call, null, "\t")}\n `),
  text("CALL, escapes in header values", '{"type":"CALL","id":"req\\u002d1","from":"or\\"der","to":"us\\\\er","method":"\\ud83d\\ude00","params":1}'),
  text("CALL, a lone surrogate in a header value", '{"type":"CALL","id":"req-1","from":"a\\ud800","to":"b","method":"c"}'),
  textTo("CALL, duplicate keys in params", '{"type":"CALL","id":"1","from":"a","to":"b","method":"c","params":{"x":1,"x":2}}',
    "86 a474797065 a443414c4c a26964 a131 a466726f6d a161 a2746f a162 a66d6574686f64 a163 a6706172616d73 82 a178 01 a178 02"),
  textTo("HEARTBEAT, timestamp with a fraction", '{"type":"HEARTBEAT","from":"a","timestamp":1.5e3}',
    "83 a474797065 a9484541525442454154 a466726f6d a161 a974696d657374616d70 cb4097700000000000"),
  msgpack("REGISTER_ACK in the smallest form", "81 a474797065 ac52454749535445525f41434b", '{"type":"REGISTER_ACK"}'),
  msgpack("REGISTER_ACK as map32 with str32", "df00000001 db00000004 74797065 d90c 52454749535445525f41434b", '{"type":"REGISTER_ACK"}'),
  msgpack("HEARTBEAT, timestamp uint64", "83 a474797065 a9484541525442454154 a466726f6d a161 a974696d657374616d70 cf0000018b94801c80", `{"type":"HEARTBEAT","from":"a","timestamp":${0x18b94801c80}}`),
];

// --- msgpackr.json: messages with what msgpackr writes and other encoders do not --------------------------------------

const carrying = (params) => ({ ...call, params });
const packr = new Packr({ useRecords: false, variableMapSize: true });
const peculiar = [
  packed("plain objects are map16", carrying({ a: {}, b: { c: {} } })),
  packed("integers beyond 32 bits are float64", carrying([2 ** 31, 2 ** 32 - 1, 2 ** 32, -(2 ** 31), -(2 ** 31) - 1, 2 ** 53, T])),
  packed("small integers of every size", carrying([0, 127, 128, 255, 256, 65535, 65536, -1, -32, -33, -128, -129, -32768, -32769])),
  packed("BigInt is int64 or uint64", carrying([5n, -5n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 64n - 1n])),
  packed("floats", carrying([1.5, 0.1, -1e-7, 1e21, 1e300, 5e-324, Number.MAX_VALUE, 123456789.125])),
  packed("NaN and infinities", carrying({ a: NaN, b: [Infinity, -Infinity] })),
  packed("Date with milliseconds, 8 bytes", carrying({ at: new Date(T) })),
  packed("Date of whole seconds, 4 bytes", carrying({ at: new Date(1699005123000) })),
  packed("Date before 1970, 12 bytes", carrying([new Date(-1), new Date(-62198755200000)])),
  packed("Date far away, 12 bytes", carrying([new Date(8.64e15), new Date(253402300800000)])),
  packed("Date that is invalid", carrying({ at: new Date(NaN) })),
  packed("undefined is ext 0", carrying({ gone: undefined, kept: null, last: undefined })),
  packed("undefined in an array", carrying([undefined, 1, [undefined]])),
  packed("functions become undefined, toJSON is ignored", carrying({ f() {}, date: { toJSON() {}, ms: 1 } })),
  packed("a lone surrogate in a short string is three bytes", carrying({ s: "a\ud800b", low: "\udfff" })),
  packed("a lone surrogate in a long string", carrying({ s: `${"x".repeat(80)}\ud800` })),
  packed("a lone surrogate in a key", carrying({ "k\ud800": 1 })),
  packed("Uint8Array is bin", carrying({ bytes: new Uint8Array([0, 1, 127, 128, 255]), none: new Uint8Array(0) })),
  packed("Buffer of 300 bytes", carrying(Buffer.from(Array.from({ length: 300 }, (_, at) => at % 256)))),
  packed("Set is an array", carrying(new Set([1, "a"]))),
  packed("Map with keys of all kinds", carrying(new Map([["s", 0], [1, 1], [-1.5, 2], [true, 3], [null, 4], [2n ** 40n, 5]]))),
  packed("Map with keys that have no text", carrying(new Map([[[1, 2], "array"], [new Map([[1, [2]]]), "map"], [new Date(0), "date"], [Buffer.from("b"), "bin"]]))),
  packed("Error", carrying(new RangeError("bad")), { json: jsonText(carrying(["RangeError", "bad", undefined])) }),
  packed("strings of every size", carrying(["", "x".repeat(31), "x".repeat(32), "é".repeat(120), "x".repeat(256), "€".repeat(100)])),
  packed("a string of 64 KiB", carrying("0123456789abcdef".repeat(4096))),
  packed("strings that JSON must escape", carrying({ 'k"\\\n': "\u0000\u001f\b\f\n\r\t\"\\/\u007f\u2028" })),
  packed("arrays of every size", carrying([[], Array(15).fill(0), Array(16).fill(true), Array(70).fill(["x"])])),
  packed("an object with 20 keys", carrying(Object.fromEntries(Array.from({ length: 20 }, (_, at) => [`key${at}`, at])))),
  packed("nested 60 deep", carrying(Array.from({ length: 60 }).reduce((inner, _, at) => (at % 2 ? { inner } : [inner]), "core"))),
  { name: "Packr without records", encoding: "msgpack", hex: hexOf(packr.pack(call)), json: jsonText(call) },
  packed("header fields undefined", { ...call, id: undefined, params: undefined, context: undefined, trace: undefined }, { refused: "INVALID_MESSAGE" }),
];

// --- bad.json: bodies that must be refused ----------------------------------------------------------------------------

const callJson = JSON.stringify(call);
const callPacked = hexOf(pack(call));
const nest = (levels, open, close) => open.repeat(levels) + close.repeat(levels);
const ACK = "a474797065 ac52454749535445525f41434b"; // "type": "REGISTER_ACK"
const records = new Packr();
const bad = [
  refusedText("empty body", "", "UnknownEncoding"),
  refusedText("an array", "[]", "UnknownEncoding"),
  refusedText("a string", '"REGISTER_ACK"', "UnknownEncoding"),
  refusedText("a byte order mark", '\ufeff{"type":"REGISTER_ACK"}', "UnknownEncoding"),
  refused("a msgpack array", "91 01", "UnknownEncoding"),
  refused("a msgpack integer", "2a", "UnknownEncoding"),
  refusedText("only white space", " \n ", "Truncated"),
  refusedText("half of a JSON CALL", callJson.slice(0, callJson.length / 2), "Truncated"),
  refusedText("a JSON CALL without its last byte", callJson.slice(0, -1), "Truncated"),
  refusedText("ends within a string", '{"type":"REGIS', "Truncated"),
  refusedText("ends within an escape", '{"type":"\\u00', "Truncated"),
  refused("half of a msgpack CALL", callPacked.slice(0, 2 * Math.floor(callPacked.length / 4)), "Truncated"),
  refused("a msgpack CALL without its last byte", callPacked.slice(0, -2), "Truncated"),
  refused("ends after the map head", "de0001", "Truncated"),
  refused("ends within the map head", "de00", "Truncated"),
  refusedText("bytes after a JSON message", '{"type":"REGISTER_ACK"}x', "TrailingBytes"),
  refusedText("two JSON messages in one frame", '{"type":"REGISTER_ACK"}{"type":"REGISTER_ACK"}', "TrailingBytes"),
  refused("a byte after a msgpack message", `81 ${ACK} c0`, "TrailingBytes"),
  refused("two msgpack messages in one frame", `81 ${ACK} 81 ${ACK}`, "TrailingBytes"),
  refusedText("no type", "{}", "WrongType"),
  refusedText("type null", '{"type":null}', "WrongType"),
  refusedText("type a number", '{"type":1}', "WrongType"),
  refusedText("id a number", '{"type":"CALL","id":7}', "WrongType"),
  refusedText("from an object", '{"type":"CALL","from":{}}', "WrongType"),
  refusedText("to an array", '{"type":"CALL","to":["a"]}', "WrongType"),
  refusedText("method true", '{"type":"CALL","method":true}', "WrongType"),
  refusedText("serviceName a number", '{"type":"REGISTER","serviceName":1}', "WrongType"),
  refusedText("status unknown", '{"type":"RESPONSE","status":"maybe"}', "WrongType"),
  refused("no type, msgpack", "80", "WrongType"),
  refused("type a number, msgpack", "81 a474797065 01", "WrongType"),
  refused("type undefined, msgpack", "81 a474797065 d40000", "WrongType"),
  refused("id a float, msgpack", `82 ${ACK} a26964 cb3ff0000000000000`, "WrongType"),
  refused("to a bin, msgpack", `82 ${ACK} a2746f c40161`, "WrongType"),
  refusedText("duplicate type", '{"type":"HEARTBEAT","type":"REGISTER"}', "DuplicateKey"),
  refusedText("duplicate to", '{"type":"CALL","to":"a","params":{},"to":"b"}', "DuplicateKey"),
  refusedText("duplicate from, once null", '{"type":"CALL","from":null,"from":"b"}', "DuplicateKey"),
  refusedText("duplicate chain in context", '{"type":"CALL","context":{"chain":[],"chain":["a"]}}', "DuplicateKey"),
  refused("duplicate type, msgpack", `82 ${ACK} ${ACK}`, "DuplicateKey"),
  refused("duplicate root in context, msgpack", `82 ${ACK} a7636f6e74657874 82 a4726f6f74 a161 a4726f6f74 a162`, "DuplicateKey"),
  refusedText("an escaped key", '{"type":"CALL","t\\u006f":"a"}', "UnusualKey"),
  refusedText("an escaped key that hides another", '{"type":"CALL","to":"a","\\u0074o":"b"}', "UnusualKey"),
  refusedText("an escaped key in context", '{"type":"CALL","context":{"r\\u006fot":"a"}}', "UnusualKey"),
  refused("a number as header key", `82 ${ACK} 01 02`, "UnusualKey"),
  refused("nil as header key", `82 ${ACK} c0 c0`, "UnusualKey"),
  refused("a header key that JSON would have to escape", `82 ${ACK} a3612262 c0`, "UnusualKey",
    { note: "carried to a JSON peer it would become an escaped key" }),
  { name: "invalid UTF-8 in a JSON value", encoding: "json", hex: hexOf(bytesOf("7b2274797065223a22ff227d")), error: "InvalidUtf8" },
  { name: "invalid UTF-8 in JSON params", encoding: "json", hex: hexOf(Buffer.concat([Buffer.from('{"type":"CALL","params":"'), bytesOf("eda080"), Buffer.from('"}')])), error: "InvalidUtf8" },
  refused("invalid UTF-8 in a msgpack header value", `82 ${ACK} a26964 a2c328`, "InvalidUtf8"),
  refused("invalid UTF-8 in a msgpack header key", `82 ${ACK} a2c328 c0`, "InvalidUtf8"),
  refused("a lone surrogate in a msgpack header value", hexOf(pack({ ...call, to: "a\ud800" })), "InvalidUtf8"),
  refusedText("a missing comma", '{"type":"CALL" "id":"1"}', "Malformed"),
  refusedText("a trailing comma", '{"type":"CALL",}', "Malformed"),
  refusedText("a trailing comma in params", '{"type":"CALL","params":[1,]}', "Malformed"),
  refusedText("single quotes", "{'type':'CALL'}", "Malformed"),
  refusedText("a comment", '{"type":"CALL"/**/}', "Malformed"),
  refusedText("a leading zero", '{"type":"CALL","params":01}', "Malformed"),
  refusedText("a number without digits", '{"type":"CALL","params":-}', "Malformed"),
  refusedText("a number that ends in a point", '{"type":"CALL","params":1.}', "Malformed"),
  refusedText("NaN", '{"type":"CALL","params":NaN}', "Malformed"),
  refusedText("a literal cut short", '{"type":"CALL","params":tru}', "Malformed"),
  refusedText("a raw control character in a string", '{"type":"CALL","params":"a\nb"}', "Malformed"),
  refusedText("an unknown escape", '{"type":"CALL","params":"\\x41"}', "Malformed"),
  refusedText("brackets that do not match", '{"type":"CALL","params":[1}]', "Malformed"),
  refused("the reserved marker", `82 ${ACK} a6706172616d73 c1`, "Malformed"),
  refusedText("JSON nested 129 deep", `{"type":"CALL","params":${nest(128, "[", "]")}}`, "TooDeep"),
  refusedText("JSON objects nested 129 deep", `{"type":"CALL","params":${'{"a":'.repeat(128)}1${"}".repeat(128)}}`, "TooDeep"),
  refusedText("JSON opened 1000 times and never closed", `{"type":"CALL","params":${"[".repeat(1000)}`, "TooDeep"),
  refused("msgpack nested 129 deep", `82 ${ACK} a6706172616d73 ${"91".repeat(127)} 90`, "TooDeep", { note: "the message is the first level" }),
  refused("msgpack maps opened 1000 times", `82 ${ACK} a6706172616d73 ${"81a161".repeat(1000)}`, "TooDeep"),
  refused("an array of 4294967295 elements", `82 ${ACK} a6706172616d73 ddffffffff`, "Truncated"),
  refused("a map of 4294967295 pairs", "dfffffffff", "Truncated"),
  refused("a string of 4 GiB", `82 ${ACK} a6706172616d73 dbffffffff 78`, "Truncated"),
  refused("a bin of 4 GiB", `82 ${ACK} a6706172616d73 c6ffffffff 78`, "Truncated"),
  refused("an ext of 4 GiB", `82 ${ACK} a6706172616d73 c9ffffffff 01`, "Truncated"),
  refused("a record of new Packr() in params", `82 ${ACK} a6706172616d73 ${hexOf(records.pack({ a: 1 }))}`, "RecordExtension"),
  { name: "a message of new Packr()", encoding: "msgpack", hex: hexOf(records.pack(heartbeat)), error: "RecordExtension",
    note: "the first byte is that of an extension: a special case, so that the error can say what to change" },
];
// Well-formed, but not messages that make sense.
const senseless = [
  ["REGISTER without serviceName", without(register, "serviceName"), "INVALID_MESSAGE"],
  ["REGISTER, methods not an array", { ...register, methods: "create" }, "INVALID_MESSAGE"],
  ["REGISTER, a method that is not a string", { ...register, methods: ["a", 1] }, "INVALID_MESSAGE"],
  ["REGISTER, an empty method name", { ...register, methods: [""] }, "INVALID_MESSAGE"],
  ["REGISTER, metadata an array", { ...register, metadata: [] }, "INVALID_MESSAGE"],
  ["CALL without id", without(call, "id"), "INVALID_MESSAGE"],
  ["CALL without to", without(call, "to"), "INVALID_MESSAGE"],
  ["CALL without method", without(call, "method"), "INVALID_MESSAGE"],
  ["CALL, context without root", { ...call, context: without(context, "root") }, "INVALID_CONTEXT"],
  ["CALL, context.root a number", { ...call, context: { ...context, root: 1 } }, "INVALID_CONTEXT"],
  ["CALL, context.chain a string", { ...call, context: { ...context, chain: "order" } }, "INVALID_CONTEXT"],
  ["CALL, context.chain empty", { ...call, context: { ...context, chain: [] } }, "INVALID_CONTEXT"],
  ["CALL, a number in context.chain", { ...call, context: { ...context, chain: ["order", 1] } }, "INVALID_CONTEXT"],
  ["CALL, context.depth a string", { ...call, context: { ...context, depth: "2" } }, "INVALID_CONTEXT"],
  ["CALL, context.depth 0", { ...call, context: { ...context, depth: 0 } }, "INVALID_CONTEXT"],
  ["CALL, context.depth negative", { ...call, context: { ...context, depth: -3 } }, "INVALID_CONTEXT"],
  ["CALL, context.deadline missing", { ...call, context: without(context, "deadline") }, "INVALID_CONTEXT"],
  ["RESPONSE without status", without(success, "status"), "INVALID_MESSAGE"],
  ["HEARTBEAT without timestamp", without(heartbeat, "timestamp"), "INVALID_MESSAGE"],
  ["a type from the future", { type: "SUBSCRIBE", topic: "orders" }, "INVALID_MESSAGE"],
].flatMap(([name, message, code]) => both(name, message, { refused: code }));

// --- values.json: payloads, not messages; for transcoding alone --------------------------------------------------------

const values = [
  textTo("the largest small integers", "[4294967295,-2147483648]", "92 ceffffffff d280000000"),
  textTo("integers just beyond 32 bits", "[4294967296,-2147483649]", "92 cb41f0000000000000 cbc1e0000000200000"),
  textTo("an integer beyond 2^53 is rounded", "9007199254740993", "cb4340000000000000"),
  text("an integer of forty digits", "1234567890123456789012345678901234567890"),
  textTo("a number with a fraction stays float", "[1.0,1e0,1E+2,0.0]", "94 cb3ff0000000000000 cb3ff0000000000000 cb4059000000000000 cb0000000000000000"),
  textTo("minus zero", "[-0,-0.0,0]", "93 cb8000000000000000 cb8000000000000000 00"),
  textTo("a number beyond the range", "[1e999,-1e999,1e-999]", "93 cb7ff0000000000000 cbfff0000000000000 cb0000000000000000"),
  textTo("duplicate keys are kept", '{"a":1,"a":2}', "82 a161 01 a161 02"),
  text("every escape", '"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20ac\\ud83d\\ude00"'),
  text("lone surrogates", '["\\ud800","\\udc00","\\ud800\\ud800","\\udc00\\ud800","a\\ud800\\u0041b","\\ud800\\ud83d\\ude00"]'),
  text("white space", " [ 1 , { \"a\" :\t2 } \n, [ ] , { } ]\r"),
  text("small containers", "[[],{},[[]],[{}],{\"\":{\"\":[]}}]"),
  text("an array of 16", `[${Array(16).fill("1")}]`),
  text("an array of 15", `[${Array(15).fill("1")}]`),
  text("wide heads in wide heads", JSON.stringify(Array(17).fill(Object.fromEntries(Array.from({ length: 16 }, (_, at) => [`k${at}`, Array(at + 3).fill(at)]))))),
  text("literals", "[true,false,null]"),
  packed("integers of msgpackr", [0, 1, -1, 2 ** 40, -(2 ** 40), 2n ** 60n]),
  msgpack("minus zero, float32 and float64", "92 ca80000000 cb8000000000000000", "[-0,-0]"),
  msgpack("float32", "93 ca3fc00000 ca3dcccccd ca7f800000", "[1.5,0.10000000149011612,null]"),
  msgpack("integers that could be shorter", "96 cc01 cd0001 ce00000001 d0ff d1ffff d2ffffffff", "[1,1,1,-1,-1,-1]"),
  msgpack("invalid UTF-8 of many kinds", "96 a1ff a2c328 a3e28241 a4f0908041 a2c080 a3eda080", '["�","�(","�A","�A","��","�"]'),
  msgpack("exts of all sizes", "96 d40100 d5010000 d601 00000000 d701 0000000000000000 d801 00000000000000000000000000000000 c70301 000000", "[null,null,null,null,null,null]"),
  msgpack("an ext as map value is null", "81 a161 c70001", '{"a":null}'),
  msgpack("undefined alone", "d40000", "null"),
  msgpack("undefined as first, middle and last member", "85 a161 d40000 a162 01 a163 d40000 a164 02 a165 d40000", '{"b":1,"d":2}'),
  msgpack("only undefined members", "82 a161 d40000 a162 d40000", "{}"),
  msgpack("timestamps that no Date can hold", "93 d7ffffffffffffffffff c70cff 00000000 7fffffffffffffff d4ff00", "[null,null,null]"),
  msgpack("a timestamp with nanoseconds is cut", "d7ff ee6b27fc 6544c2c3", '"2023-11-03T09:52:03.999Z"'),
  msgpack("a timestamp as key", "82 d6ff00000000 01 d4ffff 02", '{"1970-01-01T00:00:00.000Z":1,"?":2}'),
  msgpack("keys without text", "83 9101 01 80 02 d40000 03", '{"?":1,"?":2,"?":3}'),
  msgpack("a float as key", "82 cb3ff0000000000000 01 cb7ff8000000000000 02", '{"1":1,"null":2}'),
  msgpack("an empty bin", "c400", '{"type":"Buffer","data":[]}'),
  refused("a record", "d47240 91 a161 01", "Malformed"),
  refused("a record within a key", "81 91 d47240 01", "Malformed"),
  refused("a value and a half", "c0c0", "Malformed"),
  refused("nothing after an array head", "91", "Malformed"),
  refused("a bin where its JSON form is too deep", `${"91".repeat(127)} c400`, "TooDeep"),
  msgpack("a bin as deep as it may be", `${"91".repeat(126)} c400`, `${"[".repeat(126)}{"type":"Buffer","data":[]}${"]".repeat(126)}`),
  refused("129 arrays", `${"91".repeat(128)} 90`, "TooDeep"),
  refusedText("129 arrays, JSON", nest(129, "[", "]"), "TooDeep"),
  textTo("128 arrays", nest(128, "[", "]"), `${"91".repeat(127)} 90`),
  refusedText("a value and a half, JSON", "null null", "Malformed"),
  refusedText("an unfinished array", "[1,", "Malformed"),
];

// --- frames.json: byte streams cut into frames -------------------------------------------------------------------------

const frame = (body) => {
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(body.length);
  return hexOf(Buffer.concat([prefix, body]));
};
const ack = frame(Buffer.from('{"type":"REGISTER_ACK"}'));
const beat = frame(pack(heartbeat));
const frames = [
  { name: "one frame", hex: ack, bodyBytesMax: 1024, frames: [ack], rest: "" },
  { name: "frames of both encodings in one read", hex: ack + beat + ack, bodyBytesMax: 1024, frames: [ack, beat, ack], rest: "" },
  { name: "one frame and half of the next", hex: ack + beat.slice(0, 20), bodyBytesMax: 1024, frames: [ack], rest: beat.slice(0, 20) },
  { name: "half a prefix", hex: "0000", bodyBytesMax: 1024, frames: [], rest: "0000" },
  { name: "only a prefix", hex: "00000017", bodyBytesMax: 1024, frames: [], rest: "00000017" },
  { name: "an empty frame", hex: `00000000${ack}`, bodyBytesMax: 1024, frames: ["00000000", ack], rest: "", note: "a frame, but not a message" },
  { name: "a body of exactly the limit", hex: ack, bodyBytesMax: 23, frames: [ack], rest: "" },
  { name: "a body above the limit", hex: ack, bodyBytesMax: 22, error: "TooLarge" },
  { name: "an absurd length", hex: `${ack}ffffffff7b`, bodyBytesMax: 33554432, error: "TooLarge", note: "an HTTP request looks like this, too" },
  { name: "an HTTP request", hex: hexOf(Buffer.from("GET / HTTP/1.1\r\n\r\n")), bodyBytesMax: 33554432, error: "TooLarge" },
];

// --- Writing ------------------------------------------------------------------------------------------------------------

for (const [file, vectors] of Object.entries({ messages, msgpackr: peculiar, bad: [...bad, ...senseless], values, frames })) {
  const names = new Set(vectors.map(({ name }) => name));
  deepStrictEqual(names.size, vectors.length, `names in ${file} are unique`);
  const lines = vectors.map((vector) => `  ${JSON.stringify(vector)}`);
  writeFileSync(new URL(`../vectors/${file}.json`, import.meta.url), `[\n${lines.join(",\n")}\n]\n`);
  console.log(`${file}.json: ${vectors.length} vectors`);
}
