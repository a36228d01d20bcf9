// What most tests begin with: a gateway of their own on a socket of their own, and clients of it.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IPCClient, IPCServer } from "ipc-bro";

/** What each test has begun, to be ended in reverse. */
const cleanups = new WeakMap();

/** Runs `cleanup` when the test ends, before what was given earlier. */
export function atEnd(t, cleanup) {
  let stack = cleanups.get(t);
  if (stack === undefined) {
    stack = [];
    cleanups.set(t, stack);
    t.after(async () => {
      while (stack.length > 0) await stack.pop()();
    });
  }
  stack.push(cleanup);
}

/** A folder that goes with the test. */
export function folder(t) {
  const path = mkdtempSync(join(tmpdir(), "ipc-bro-"));
  atEnd(t, () => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** The path of a socket that nobody has bound. */
export function freePath(t) {
  return join(folder(t), "gateway.sock");
}

/** A running gateway. */
export async function startGateway(t, config = {}) {
  const server = new IPCServer({ socketPath: freePath(t), ...config });
  atEnd(t, () => server.stop());
  await server.start();
  return server;
}

/** Where a gateway listens. */
export function pathOf(gateway) {
  return typeof gateway === "string" ? gateway : gateway.getStatus().socketPath;
}

/** A client that is connected, with these methods. */
export async function connect(t, gateway, serviceName, methods = {}, config = {}) {
  const client = new IPCClient({ serviceName, gatewayPath: pathOf(gateway), ...config });
  for (const [name, handler] of Object.entries(methods)) client.registerMethod(name, handler);
  atEnd(t, () => client.disconnect());
  await client.connect();
  return client;
}

/** What a promise rejects with. */
export async function rejection(promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  assert.fail(`resolved with ${JSON.stringify(value)}`);
}

/** The code that a call rejects with. */
export async function codeOf(promise) {
  return (await rejection(promise)).code;
}

/** Times after which calls end, one after the other: on a slow machine the first ones may be over before a call has arrived. */
export const TIMEOUTS = [30, 250, 1500, 8000, 30_000];

/** Makes calls that time out until one has arrived before that, as `hasArrived` says. `call` makes one with the time that it is given. */
export async function expire(call, hasArrived) {
  for (const timeout of TIMEOUTS) {
    const code = await codeOf(call(timeout));
    if (hasArrived()) return assert.equal(code, "TIMEOUT");
    assert.ok(["TIMEOUT", "DEADLINE_EXCEEDED"].includes(code), code);
  }
  assert.fail("no call arrives before its time is over");
}

/** Resolves as soon as the condition holds. The test's own watchdog ends a wait for what never happens. */
export async function until(condition) {
  for (;;) {
    const value = await condition();
    if (value) return value;
    await sleep(5);
  }
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The arguments of the next event of that name. */
export function next(emitter, event) {
  return new Promise((resolve) => emitter.once(event, (...values) => resolve(values)));
}

/** Collects the first argument of every event of that name. */
export function collect(emitter, event) {
  const collected = [];
  emitter.on(event, (value) => collected.push(value));
  return collected;
}

/** The object has these keys and, besides some of the optional ones, no others. Keys that hold `undefined` count as absent. */
export function assertKeys(object, required, optional = []) {
  const present = Object.keys(object).filter((key) => object[key] !== undefined);
  for (const key of required) assert.ok(present.includes(key), `no ${key} in ${JSON.stringify(object)}`);
  for (const key of present) assert.ok([...required, ...optional].includes(key), `${key} is not documented`);
}

/** Both encodings, and both mixes of them, as { caller, callee }. */
export const MIXES = ["json", "msgpack"].flatMap((caller) =>
  ["json", "msgpack"].map((callee) => ({ caller, callee, name: `${caller} to ${callee}` })),
);
