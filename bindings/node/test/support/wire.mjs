// Frames of protocol v1, as the old JavaScript library writes and reads them. Shares no code with the package.
import { pack, unpack } from "msgpackr";

/** One message with its length in front. */
export function frame(message, encoding) {
  const body = encoding === "msgpack" ? pack(message) : Buffer.from(JSON.stringify(message));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  return Buffer.concat([length, body]);
}

/** Calls `onMessage` for every message that arrives on the socket. */
export function readFrames(socket, encoding, onMessage) {
  let pending = Buffer.alloc(0);
  socket.on("data", (chunk) => {
    pending = Buffer.concat([pending, chunk]);
    while (pending.length >= 4 && pending.length >= 4 + pending.readUInt32BE(0)) {
      const end = 4 + pending.readUInt32BE(0);
      const body = pending.subarray(4, end);
      pending = pending.subarray(end);
      onMessage(encoding === "msgpack" ? unpack(body) : JSON.parse(body.toString("utf8")));
    }
  });
}

/** An id as old programs make them. */
export function makeId(prefix) {
  const tail = Math.floor(Math.random() * 36 ** 6).toString(36);
  return `${prefix}-${Date.now()}-${tail.padStart(6, "0")}`;
}
