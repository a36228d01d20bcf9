// What is sent, and the proof that it came back.
import assert from "node:assert/strict";

/** Bytes of every payload but the large string, as JSON. */
export const PAYLOAD_BYTES = 410;
/** The large string has so many bytes and characters. */
export const LARGE_BYTES = 1024 * 1024;
/** What can be sent: `make` gives one that differs from the one before, `check` is given it and the answer. */
export const PAYLOADS = {
  small: { make: small, check: checkUser },
  order: { make: order, check: checkObject },
  flat: { make: flat, check: checkObject },
  large: { make: large, check: checkLarge },
};

/** Sequence numbers start here, so that all of them have as many digits. */
const FIRST_SEQUENCE = 100_000_000;
/** Every so many-th echo is compared as a whole; of the others the sequence number, the total and the last field. */
const COMPARED_EVERY = 256;

let sequence = FIRST_SEQUENCE;

/** The call of the readme: small parameters, and a small answer that is made by {@link userOf}. */
function small() {
  return { userId: String(sequence++ % 1000) };
}

/** What the callee answers to `small`. */
export function userOf({ userId }) {
  return { id: userId, name: "Ada Byron", email: "ada.byron@example.org" };
}

/** Five objects, two arrays, numbers and short strings: what programs send each other. */
function order() {
  return {
    sequence: sequence++,
    orderId: "ord-7f3a91c2-55b0-4c1e-9d17-02b6f0a4e8d3",
    customer: {
      name: "Ada Byron",
      email: "ada.byron@example.org",
      verified: true,
      tags: ["early", "wholesale", "eu-west"],
    },
    items: [
      { sku: "BOOK-0042", count: 2, price: 19.95 },
      { sku: "LAMP-1007", count: 1, price: 74.5 },
      { sku: "DESK-2210", count: 1, price: 249 },
    ],
    total: 363.4,
    currency: "EUR",
    note: "Leave it with the neighbour, please.",
  };
}

/** As many bytes, nearly all of them in one string: serialising it is cheap, so more of the transport shows. */
function flat() {
  return { sequence: sequence++, orderId: "ord-7f3a91c2", total: 363.4, note: FLAT_NOTE };
}

const FLAT_NOTE = "Leave it with the neighbour, please. ".repeat(10).slice(0, 339);

/**
 * One string of ASCII characters: in turn one of a few that were made before, as they would come from a file. One that is put
 * together from parts would be flattened in the call.
 */
function large() {
  return LARGE_STRINGS[sequence++ % LARGE_STRINGS.length];
}

const LARGE_STRINGS = Array.from({ length: 4 }, (_, at) =>
  Buffer.alloc(LARGE_BYTES, `${at}: words of text. `).toString("latin1"),
);

/** Throws where `echo` is not what was sent. */
function checkObject(sent, echo) {
  if (echo?.sequence !== sent.sequence || echo.total !== sent.total || echo.note !== sent.note) {
    throw new Error(`wrong echo: sent ${JSON.stringify(sent)}, came back ${JSON.stringify(echo)?.slice(0, 1000)}`);
  }
  // By way of JSON: some give objects of classes of their own.
  if (sent.sequence % COMPARED_EVERY === 0) assert.deepEqual(JSON.parse(JSON.stringify(echo)), sent);
}

function checkUser({ userId }, user) {
  if (user?.id === userId && user.name === "Ada Byron" && user.email === "ada.byron@example.org") return;
  throw new Error(`wrong user: asked for ${userId}, came back ${JSON.stringify(user)?.slice(0, 1000)}`);
}

function checkLarge(sent, echo) {
  if (echo === sent) return;
  throw new Error(`wrong echo of a string of ${sent.length} characters: ${String(echo).slice(0, 80)}`);
}

for (const make of [order, flat]) {
  assert.equal(
    Buffer.byteLength(JSON.stringify(make())),
    PAYLOAD_BYTES,
    `${make.name} has another length than it should`,
  );
}
