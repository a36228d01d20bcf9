// Bytes that are said to be a value and are none, from peers that no gateway checks: each harms its own call, and nothing beside it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { atEnd, connect, pathOf, rejection, startGateway } from "./support/ipc.mjs";
import { call, rawPeer, resolve, response } from "./support/raw-peer.mjs";

const GOOD = '{"id":7,"name":"Asha"}';
const long = (text) => `{"text":"${"x".repeat(100_000)}",${text}}`;
const MALFORMED = [
  '{"id":7,"name":"Asha"',
  '{"id":7,"name":"Asha"}}',
  '{"id":7,"name":"Asha"} x',
  '{"id":7,"name":"Asha",}',
  '{"id":7 "name":"Asha"}',
  '{"id":,"name":"Asha"}',
  '{"id":07,"name":"Asha"}',
  '{"id":7.,"name":"Asha"}',
  '{"id":-,"name":"Asha"}',
  '{"id":7e,"name":"Asha"}',
  '{"id":7,"name":"As\u0001ha"}',
  '{"id":7,"name":"As\\xha"}',
  '{"id":7,"name":"As\\u12"}',
  '{"id":7,name:"Asha"}',
  '{"id":nul,"name":"Asha"}',
  "{'id':7}",
  '"',
  '"a"b"',
  '"a","b"',
  "]",
  "[1,2",
  "[1 2]",
  "1]",
  "1,[2",
  "NaN",
  "truefalse",
  "\ufeff1",
  "[".repeat(5000),
  "[".repeat(5000) + "]".repeat(5000),
  Buffer.from([0x22, 0xff, 0xfe, 0x22]),
  Buffer.concat([Buffer.from('{"id":7,"name":"'), Buffer.from([0xc3, 0x28]), Buffer.from('"}')]),
  long(""),
  long('"id":07'),
  `"${"x".repeat(100_000)}`,
  `"${"x".repeat(100_000)}\u0001"`,
  `${"[".repeat(70_000)}`,
];

test("as results", async (t) => {
  const server = await startGateway(t);
  const waiting = [];
  let answers;
  const peer = await rawPeer(pathOf(server), "raw", ["get"], ({ kind, id }) => {
    if (kind !== "CALL") return;
    waiting.push(id);
    if (waiting.length < answers.length) return;
    // In one piece, so that they come in one batch.
    peer.write(Buffer.concat(waiting.splice(0).map((number, at) => response(number, answers[at]))));
  });
  atEnd(t, () => peer.destroy());
  const order = await connect(t, server, "order");
  const callAll = (payloads) => {
    answers = payloads;
    return payloads.map(() => order.call("raw", "get"));
  };
  const good = JSON.parse(GOOD);
  // Until its keys are known.
  for (let n = 0; n < 40; n++) assert.deepEqual(await Promise.all(callAll([GOOD, GOOD])), [good, good]);
  for (const payload of MALFORMED) {
    const [first, bad, spaced, last] = callAll([GOOD, payload, ` ${GOOD}`, GOOD]);
    const error = await rejection(bad);
    assert.equal(error.code, "DESERIALIZATION_FAILED", `${payload.slice(0, 50)}: ${error}`);
    assert.deepEqual(error.details, { service: "raw", method: "get", origin: "local" });
    assert.deepEqual(await Promise.all([first, spaced, last]), [good, good, good]);
  }
});

test("as parameters", async (t) => {
  const server = await startGateway(t);
  const seen = [];
  await connect(t, server, "user", { echo: (value) => seen.push(value) && value });
  const answers = new Map();
  let check = () => {};
  const peer = await rawPeer(pathOf(server), "raw", [], ({ kind, id, code, payload }) => {
    if (kind === "other") return;
    answers.set(Number(id), code ?? payload.toString());
    check();
  });
  atEnd(t, () => peer.destroy());
  peer.write(resolve("user"));
  let number = 0;
  const callAll = (payloads) => {
    const ids = payloads.map(() => ++number);
    peer.write(Buffer.concat(ids.map((id, at) => call(id, "echo", payloads[at]))));
    return new Promise((settle) => {
      check = () => ids.every((id) => answers.has(id)) && settle(ids.map((id) => answers.get(id)));
    });
  };
  for (let n = 0; n < 40; n++) assert.deepEqual(await callAll([GOOD, GOOD]), [GOOD, GOOD]);
  for (const payload of MALFORMED) {
    seen.length = 0;
    const answered = await callAll([GOOD, payload, ` ${GOOD}`, GOOD]);
    assert.deepEqual(answered, [GOOD, "DESERIALIZATION_FAILED", GOOD, GOOD], payload.slice(0, 50).toString());
    assert.equal(seen.length, 3, "a handler gets values only");
  }
});
