// A peer of protocol v2 that sends any bytes, written from docs/protocol.md. Shares no code with the package.
import { createConnection } from "node:net";
import { frame } from "./wire.mjs";

const CALL = 1;
const RESPONSE = 2;
const ERROR = 3;
const JSON_CODEC = 1;

/** One frame: kind, number, what follows the head. */
function numbered(kind, id, rest, codec = 0) {
  const head = Buffer.alloc(16);
  head.writeUInt32BE(12 + rest.length);
  head[4] = 0xb2;
  head[5] = kind;
  head[7] = codec;
  head.writeBigUInt64LE(BigInt(id), 8);
  return Buffer.concat([head, rest]);
}

/** An answer whose payload is these bytes, said to be JSON. */
export const response = (id, payload) => numbered(RESPONSE, id, Buffer.from(payload), JSON_CODEC);

/** A call of a method on route 0. */
export function call(id, method, payload) {
  const more = Buffer.alloc(32);
  more.writeUInt32LE(60_000, 20);
  more.writeUInt16LE(method.length, 24);
  return numbered(CALL, id, Buffer.concat([more, Buffer.from(method), Buffer.from(payload)]), JSON_CODEC);
}

/** Binds route 0. */
export const resolve = (service) => numbered(6, 0, Buffer.from(service));

/** Registers; `onFrame` gets `{ kind, id, payload, code }` of each frame of version 2. */
export async function rawPeer(path, serviceName, methods, onFrame) {
  const socket = createConnection(path);
  const metadata = { bro: { v: 2 } };
  let pending = Buffer.alloc(0);
  const acknowledged = new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.on("data", (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= 4 && pending.length >= 4 + pending.readUInt32BE(0)) {
        const end = 4 + pending.readUInt32BE(0);
        const whole = pending.subarray(0, end);
        pending = pending.subarray(end);
        if (whole[4] !== 0xb2) resolve();
        else onFrame(read(whole));
      }
    });
  });
  socket.write(frame({ type: "REGISTER", serviceName, methods, version: "1.0.0", metadata }, "json"));
  await acknowledged;
  return socket;
}

function read(whole) {
  const [kind, id] = [whole[5], whole.readBigUInt64LE(8)];
  if (kind === ERROR) {
    const codeBytes = whole.readUInt16LE(16);
    return { kind: "ERROR", id, code: whole.toString("utf8", 24, 24 + codeBytes) };
  }
  if (kind === RESPONSE) return { kind: "RESPONSE", id, payload: whole.subarray(16) };
  return { kind: kind === CALL ? "CALL" : "other", id };
}
