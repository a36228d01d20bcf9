// The conformance vectors, through IPCUtils.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { IPCError, IPCUtils } from "ipc-bro";

const folder = process.env.IPC_BRO_VECTORS;

function read(name) {
  return JSON.parse(readFileSync(`${folder}/${name}.json`, "utf8"));
}

function framed(hex) {
  const body = Buffer.from(hex, "hex");
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([length, body]);
}

/** Surrogates without their other half, and what decoders put in the place of one: some one sign, some one a byte. */
const BROKEN = /(\\ud[89a-f][0-9a-f]{2}|\ufffd)+/gi;

/** What a value is after a walk through JSON: how the vectors give the meaning of msgpack bodies. */
function asJson(value) {
  const text = JSON.stringify(value, (_, inner) => (typeof inner === "bigint" ? Number(inner) : inner));
  return JSON.parse(text.replace(BROKEN, "\ufffd"));
}

/** msgpackr takes what it could not have written otherwise than the vectors say. No v1 program sends it. */
const NOT_FOR_MSGPACKR = ["Map with keys that have no text", "the reserved marker"];

function isReadable({ name, error }) {
  return error === undefined && !NOT_FOR_MSGPACKR.includes(name);
}

const messages = [...read("messages"), ...read("msgpackr")].filter(isReadable);

describe("messages mean what the vectors say", () => {
  for (const { name, encoding, hex, json, msgpack } of messages) {
    test(name, () => {
      const value = IPCUtils.deserialize(framed(hex));
      if (encoding === "msgpack") assert.deepEqual(asJson(value), asJson(JSON.parse(json)));
      else assert.deepEqual(asJson(IPCUtils.deserialize(framed(msgpack))), asJson(value));
    });
  }
});

describe("messages survive being written again", () => {
  for (const { name, hex } of messages) {
    test(name, () => {
      const value = asJson(IPCUtils.deserialize(framed(hex)));
      for (const encoding of ["json", "msgpack"]) {
        assert.deepEqual(asJson(IPCUtils.deserialize(IPCUtils.serialize(value, encoding))), value);
      }
    });
  }
});

// Beyond these, JSON.parse and msgpackr take more than a gateway accepts (duplicate keys, depth): no business of IPCUtils.
const undecodable = read("bad").filter(
  ({ name, error }) => ["Truncated", "Malformed", "TrailingBytes"].includes(error) && !NOT_FOR_MSGPACKR.includes(name),
);

describe("bodies that are not well-formed are refused", () => {
  for (const { name, hex } of undecodable) {
    test(name, () => {
      assert.throws(
        () => IPCUtils.deserialize(framed(hex)),
        (error) => error instanceof IPCError,
      );
    });
  }
});

describe("frames are cut as the vectors say", () => {
  for (const { name, hex, frames, rest, error } of read("frames")) {
    test(name, () => {
      // The vectors have limits of their own, IPCUtils has that of the gateway: only lengths beyond both are refused.
      const bytes = Buffer.from(hex, "hex");
      if (error !== undefined) return assert.equal(IPCUtils.hasCompleteMessage(bytes) && bytes.length < 5, false);
      let left = bytes;
      for (const expected of frames) {
        assert.ok(IPCUtils.hasCompleteMessage(left));
        const end = 4 + IPCUtils.readMessageLength(left);
        assert.equal(left.subarray(0, end).toString("hex"), expected);
        left = left.subarray(end);
      }
      assert.equal(IPCUtils.hasCompleteMessage(left), false);
      assert.equal(left.toString("hex"), rest);
    });
  }
});
