import type { Packr as PackrClass } from "msgpackr";
import { IPCError, IPCErrorCode } from "./errors";
import type { Serializer } from "./types";

/** msgpackr as one file beside this one, put there by the build: as a dependency it would bring an install script. */
const msgpackr: { Packr: typeof PackrClass; addExtension(extension: object): void } = require("./msgpackr.js");

/**
 * Plain maps, as every v1 program understands them. `useRecords: false` is essential: msgpackr's record extension is
 * its own and refused by the gateway. Integers beyond the safe ones become BigInt.
 */
const packr = new msgpackr.Packr({
  useRecords: false,
  encodeUndefinedAsNil: false,
  int64AsType: "auto",
  copyBuffers: true,
} as object);

/** Their bytes, as they lie in memory. msgpackr by itself would write the elements into places of one byte. */
const VIEWS = [
  Int8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
  DataView,
];
for (const Class of VIEWS) msgpackr.addExtension({ Class, write: asBuffer });
msgpackr.addExtension({ Class: ArrayBuffer, write: asBuffer });

/**
 * The value as JSON text; `undefined` for `undefined`. Binary values are written as Node writes a `Buffer`,
 * `{"type":"Buffer","data":[…]}`, and become a `Buffer` again on the other side.
 * Throws `SERIALIZATION_FAILED` for what JSON cannot carry: cycles, BigInt, functions and symbols at the top.
 */
export function encodeJson(value: unknown): string | undefined {
  if (value === undefined) return undefined;
  let text: string | undefined | null;
  try {
    text = plainText(value);
    // A view that is not a Buffer looks like this when it is stringified: only then it is worth looking for one.
    if (text === null || ((text?.includes('{"0":') || text?.includes("{}")) && holdsBinary(value))) {
      // What a replacer returns is not asked for its toJSON any more.
      text = JSON.stringify(value, (_, inner) => (isBinary(inner) ? asBuffer(inner).toJSON() : inner));
    }
  } catch (error) {
    throw unserializable("json", error);
  }
  if (text === undefined || text === null) throw unserializable("json", `a ${typeof value} has no JSON form`);
  return text;
}

/** The value as JSON text; `null` if it has none as it is, which may be for the sake of a BigInt64Array. */
function plainText(value: unknown): string | undefined | null {
  try {
    return JSON.stringify(value);
  } catch {
    return null;
  }
}

/** Puts back the binary values of a parsed JSON value. */
export function reviveBinary(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  const binary = asRevived(value);
  if (binary !== undefined) return binary;
  if (isBinary(value)) return value;
  const holder = value as Record<string, unknown>;
  for (const key of Object.keys(holder)) {
    const inner = holder[key];
    if (typeof inner !== "object" || inner === null) continue;
    const revived = reviveBinary(inner);
    // Defined, not assigned: a key may be `__proto__`.
    if (revived !== inner) {
      Object.defineProperty(holder, key, { value: revived, configurable: true, enumerable: true, writable: true });
    }
  }
  return value;
}

/** The value as msgpack. Throws `SERIALIZATION_FAILED` for cycles, and functions and symbols at the top. */
export function encodeMsgpack(value: unknown): Buffer {
  if (typeof value === "function" || typeof value === "symbol") {
    throw unserializable("msgpack", `a ${typeof value} has no msgpack form`);
  }
  try {
    return packr.pack(value) as Buffer;
  } catch (error) {
    throw unserializable("msgpack", error);
  }
}

/** `"type": "Buffer"` in msgpack: the gateway writes so what a JSON program has sent as binary. */
const BINARY_MARK = Buffer.from([0xa4, ...Buffer.from("type"), 0xa6, ...Buffer.from("Buffer")]);

/** The value of some bytes of msgpack. Throws `DESERIALIZATION_FAILED`. */
export function decodeMsgpack(bytes: Buffer, start = 0, end: number = bytes.length): unknown {
  try {
    const value: unknown = packr.unpack(bytes, { start, end } as never);
    if (typeof value !== "object" || value === null) return value;
    return bytes.subarray(start, end).includes(BINARY_MARK) ? reviveBinary(value) : value;
  } catch (error) {
    throw new IPCError(`the bytes are not msgpack: ${messageOf(error)}`, IPCErrorCode.DESERIALIZATION_FAILED);
  }
}

/** Encodes one value in either encoding. */
export function encodeValue(value: unknown, serializer: Serializer): Buffer {
  if (serializer === "msgpack") return encodeMsgpack(value);
  const text = encodeJson(value);
  if (text === undefined) throw unserializable("json", "undefined has no JSON form");
  return Buffer.from(text);
}

/** Decodes one value; the encoding shows in the first byte of a whole message, so `serializer` must be told for parts. */
export function decodeValue(bytes: Buffer, serializer: Serializer): unknown {
  if (serializer === "msgpack") return decodeMsgpack(bytes);
  try {
    const text = bytes.toString("utf8");
    const value: unknown = JSON.parse(text);
    return text.includes('"type":"Buffer"') ? reviveBinary(value) : value;
  } catch (error) {
    throw new IPCError(`the bytes are not json: ${messageOf(error)}`, IPCErrorCode.DESERIALIZATION_FAILED);
  }
}

/** Which encoding a message body has, by its first byte. */
export function detectSerializer(body: Buffer): Serializer {
  const first = body[0];
  const isMap = first !== undefined && ((first >= 0x80 && first <= 0x8f) || first === 0xde || first === 0xdf);
  return isMap ? "msgpack" : "json";
}

/** The message of whatever was thrown. */
export function messageOf(thrown: unknown): string {
  try {
    const message = (thrown as { message?: unknown } | null | undefined)?.message;
    return typeof message === "string" ? message : String(thrown);
  } catch {
    return "something was thrown that cannot be shown";
  }
}

function unserializable(serializer: Serializer, why: unknown): IPCError {
  const reason = typeof why === "string" ? why : messageOf(why);
  return new IPCError(`the value cannot be sent as ${serializer}: ${reason}`, IPCErrorCode.SERIALIZATION_FAILED);
}

function isBinary(value: unknown): value is ArrayBufferView | ArrayBuffer {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer;
}

function asBuffer(value: ArrayBufferView | ArrayBuffer): Buffer {
  if (value instanceof ArrayBuffer) return Buffer.from(value);
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
}

/** Whether a binary value is somewhere in it. The value was stringified before, so it has no cycles. */
function holdsBinary(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (isBinary(value)) return !Buffer.isBuffer(value);
  return Object.values(value).some(holdsBinary);
}

/** The Buffer that an object is the JSON form of. */
function asRevived(value: object): Buffer | undefined {
  const { type, data } = value as { type?: unknown; data?: unknown };
  if (type !== "Buffer" || !Array.isArray(data) || Object.keys(value).length !== 2) return undefined;
  const isByte = (item: unknown) => Number.isInteger(item) && (item as number) >= 0 && (item as number) <= 255;
  return data.every(isByte) ? Buffer.from(data as number[]) : undefined;
}
