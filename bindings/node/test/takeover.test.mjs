// Gateways that are replaced while clients of this package call without pause.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { atEnd, connect, freePath, until } from "./support/ipc.mjs";
import { accepts, broCommand } from "./support/lanes.mjs";

const TAKEOVERS = 5;

/** A gateway of the command that takes over, if there is one to take over from. */
function startSuccessor(t, path) {
  const child = spawn(broCommand(), ["gateway", "--socket", path, "--takeover", "--lanes", "off"], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.on("data", (chunk) => {
    said += chunk;
  });
  const exit = new Promise((resolve) => child.on("exit", resolve));
  atEnd(t, async () => {
    child.kill("SIGKILL");
    await exit;
  });
  return { child, exit, said: () => said };
}

for (const serializer of ["json", "msgpack"]) {
  test(`clients notice nothing of ${TAKEOVERS} takeovers, with ${serializer}`, async (t) => {
    const path = freePath(t);
    let gateway = startSuccessor(t, path);
    await until(() => accepts(path));
    const lost = [];
    const callee = await connect(t, path, "callee", { echo: (value) => value }, { serializer });
    const callers = await Promise.all(
      Array.from({ length: 6 }, (_, n) => connect(t, path, `caller-${n}`, {}, { serializer })),
    );
    for (const client of [callee, ...callers]) client.on("disconnected", () => lost.push(client));
    let answered = 0;
    let isOver = false;
    const calling = callers.map(async (caller) => {
      for (let n = 0; !isOver; n++) {
        const value = { n, text: "x".repeat(n % 10 === 0 ? 100_000 : 10) };
        assert.deepEqual(await caller.call("callee", "echo", value), value);
        answered += 1;
      }
    });
    for (let n = 0; n < TAKEOVERS; n++) {
      const before = answered;
      await until(() => answered > before + 50);
      const next = startSuccessor(t, path);
      assert.equal(await gateway.exit, 0, gateway.said());
      gateway = next;
    }
    const before = answered;
    await until(() => answered > before + 50);
    isOver = true;
    await Promise.all(calling);
    assert.deepEqual(lost, []);
    const { counters } = await callers[0].call("bro.gateway", "status");
    assert.equal(counters.callsRouted, counters.responsesRouted);
    assert.equal(counters.registrations, 7 + TAKEOVERS);
  });
}
