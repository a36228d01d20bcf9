// The transcoding rules of docs/transcoding.md once more, in JavaScript and independent of the Rust code.

// What msgpack that holds this JavaScript value becomes as JSON text.
export function jsonText(value) {
  switch (typeof value) {
    case "undefined":
    case "function":
      return "null"; // as a map value it is left out, below
    case "bigint":
      return value.toString();
    case "string":
      return JSON.stringify(value.toWellFormed());
    case "number":
    case "boolean":
      return JSON.stringify(value);
  }
  if (value === null) return "null";
  if (value instanceof Date) return JSON.stringify(value);
  if (value instanceof Uint8Array) return JSON.stringify(Buffer.from(value));
  if (value instanceof Set) return jsonText([...value]);
  if (Array.isArray(value)) return `[${value.map(jsonText).join(",")}]`;
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  const members = entries
    .filter(([, member]) => member !== undefined && typeof member !== "function")
    .map(([key, member]) => `${keyText(key)}:${jsonText(member)}`);
  return `{${members.join(",")}}`;
}

function keyText(key) {
  if (typeof key === "string" || key instanceof Date) return jsonText(key);
  if (typeof key === "object" && key !== null) return '"?"';
  return `"${jsonText(key)}"`;
}

// What a parsed JSON text becomes as msgpack. `1.0` and `1` are the same to JSON.parse, so texts that mean to tell them
// apart cannot be given to this.
export function msgpackBytes(value) {
  const out = [];
  write(value, out);
  return Buffer.from(out);
}

function write(value, out) {
  if (value === null) out.push(0xc0);
  else if (value === true) out.push(0xc3);
  else if (value === false) out.push(0xc2);
  else if (typeof value === "number") number(value, out);
  else if (typeof value === "string") string(value, out);
  else if (Array.isArray(value)) {
    head(out, value.length, 15, 0x90, [[0xffff, 0xdc, 2], [0xffffffff, 0xdd, 4]]);
    for (const element of value) write(element, out);
  } else {
    const entries = Object.entries(value);
    head(out, entries.length, 15, 0x80, [[0xffff, 0xde, 2], [0xffffffff, 0xdf, 4]]);
    for (const [key, member] of entries) {
      string(key, out);
      write(member, out);
    }
  }
}

function number(value, out) {
  const small = Number.isInteger(value) && !Object.is(value, -0) && value >= -(2 ** 31) && value < 2 ** 32;
  if (!small) {
    const bytes = Buffer.alloc(9, 0xcb);
    bytes.writeDoubleBE(value, 1);
    out.push(...bytes);
  } else if (value >= 0) {
    head(out, value, 0x7f, 0, [[0xff, 0xcc, 1], [0xffff, 0xcd, 2], [0xffffffff, 0xce, 4]]);
  } else if (value >= -32) {
    out.push(0x100 + value);
  } else if (value >= -0x80) {
    head(out, 0x100 + value, -1, 0, [[0xff, 0xd0, 1]]);
  } else if (value >= -0x8000) {
    head(out, 0x10000 + value, -1, 0, [[0xffff, 0xd1, 2]]);
  } else {
    head(out, 0x100000000 + value, -1, 0, [[0xffffffff, 0xd2, 4]]);
  }
}

function string(value, out) {
  const bytes = Buffer.from(value.toWellFormed());
  head(out, bytes.length, 31, 0xa0, [[0xff, 0xd9, 1], [0xffff, 0xda, 2], [0xffffffff, 0xdb, 4]]);
  for (const byte of bytes) out.push(byte);
}

// One byte up to `fixMax`, else the first form whose maximum suffices.
function head(out, count, fixMax, fixMarker, forms) {
  if (count <= fixMax) {
    out.push(fixMarker | count);
    return;
  }
  const [, marker, size] = forms.find(([max]) => count <= max);
  out.push(marker);
  for (let shift = size - 1; shift >= 0; shift--) out.push(Math.floor(count / 256 ** shift) % 256);
}
