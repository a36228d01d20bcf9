import { Packr } from "msgpackr";
import { IPCError, IPCErrorCode } from "./errors";
import type { Serializer } from "./types";

/**
 * Plain maps, as every v1 program understands them. `useRecords: false` is essential: msgpackr's record extension is
 * its own and refused by the gateway.
 */
const packr = new Packr({ useRecords: false, encodeUndefinedAsNil: false, int64AsType: "auto" });

/** Encodes one value. Throws `SERIALIZATION_FAILED` for what the encoding cannot carry (cycles, functions, BigInt in JSON). */
export function encodeValue(value: unknown, serializer: Serializer): Buffer {
  try {
    if (serializer === "msgpack") return packr.pack(value) as Buffer;
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError(`a ${typeof value} has no JSON form`);
    return Buffer.from(text);
  } catch (error) {
    throw new IPCError(
      `the value cannot be sent as ${serializer}: ${messageOf(error)}`,
      IPCErrorCode.SERIALIZATION_FAILED,
    );
  }
}

/** Decodes one value; the encoding shows in the first byte of a whole message, so `serializer` must be told for parts. */
export function decodeValue(bytes: Buffer, serializer: Serializer): unknown {
  try {
    return serializer === "msgpack" ? packr.unpack(bytes) : JSON.parse(bytes.toString("utf8"));
  } catch (error) {
    throw new IPCError(
      `the bytes are not ${serializer}: ${messageOf(error)}`,
      IPCErrorCode.DESERIALIZATION_FAILED,
    );
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
  return thrown instanceof Error ? thrown.message : String(thrown);
}
