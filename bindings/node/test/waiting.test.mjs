// Calls that wait for their service to appear.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { IPCClient, IPCServer } from "ipc-bro";
import { atEnd, codeOf, connect, expire, freePath, rejection, startGateway, TIMEOUTS, until } from "./support/ipc.mjs";
import { OldGateway } from "./support/old-gateway.mjs";
import { OldProgram } from "./support/old-program.mjs";

const LONG = 600_000;
const patient = { waitForService: LONG, timeout: LONG, reconnectDelay: 10 };
const waiting = (client, calls) => until(() => client.stats().waitingCalls === calls);

for (const serializer of ["json", "msgpack"]) {
  for (const protocol of ["auto", 1]) {
    test(`services are started in any order, ${serializer}, protocol ${protocol}`, async (t) => {
      const server = await startGateway(t);
      const order = await connect(t, server, "order", {}, { ...patient, serializer, protocol });
      const seen = [];
      order.on("gateway-error", (error) => seen.push(error));
      const calls = Array.from({ length: 20 }, (_, n) => order.call("user", "twice", { n }));
      await waiting(order, 20);
      assert.equal(order.getStatus().pendingRequests, 20);
      const arrived = [];
      const twice = ({ n }) => {
        arrived.push(n);
        return 2 * n;
      };
      const user = await connect(t, server, "user", { twice }, { protocol });
      const numbers = Array.from({ length: 20 }, (_, n) => n);
      assert.deepEqual(
        await Promise.all(calls),
        numbers.map((n) => 2 * n),
      );
      assert.deepEqual(arrived, numbers, "in the order in which they were made");
      assert.deepEqual([order.stats().waitingCalls, order.stats().waits, seen], [0, 20, []]);
      // A service that goes is waited for like one that has not come.
      await user.disconnect();
      const again = order.call("user", "twice", { n: 21 });
      await waiting(order, 1);
      await user.connect();
      assert.equal(await again, 42);
    });
  }
}

test("a call says itself whether it waits, and how long", async (t) => {
  const server = await startGateway(t);
  const hasty = await connect(t, server, "hasty");
  // A wait that is over before the gateway has said that nobody is there has not begun.
  let waitForService;
  let error;
  for (waitForService of TIMEOUTS) {
    error = await rejection(hasty.call("user", "echo", 1, { waitForService, timeout: LONG }));
    assert.equal(error.code, "SERVICE_NOT_FOUND");
    if (error.details.origin === "local") break;
  }
  assert.equal(error.details.origin, "local");
  assert.ok(error.message.includes(`did not appear within ${waitForService} ms`), error.message);
  assert.equal(await codeOf(hasty.call("user", "echo", 1)), "SERVICE_NOT_FOUND");

  const order = await connect(t, server, "order", {}, patient);
  assert.equal(await codeOf(order.call("user", "echo", 1, { waitForService: false })), "SERVICE_NOT_FOUND");
  assert.equal(await codeOf(order.call("user", "echo", 1, { timeout: 30 })), "TIMEOUT");
  assert.equal(await codeOf(order.call("user", "echo", 1, { waitForService: "long" })), "INVALID_ARGUMENT");
  // Notifications do not wait.
  await order.notify("user", "echo", 1);
  assert.equal(order.stats().waitingCalls, 0);
  const late = hasty.call("user", "echo", 7, { waitForService: true });
  await waiting(hasty, 1);
  await connect(t, server, "user", { echo: (n) => n });
  assert.equal(await late, 7);
});

test("a signal takes a call out", async (t) => {
  const server = await startGateway(t);
  const order = await connect(t, server, "order", {}, patient);
  const control = new AbortController();
  const given = codeOf(order.call("user", "echo", "given up", { signal: control.signal }));
  const kept = order.call("user", "echo", "kept");
  await waiting(order, 2);
  control.abort();
  assert.equal(await given, "CANCELLED");
  await waiting(order, 1);
  const arrived = [];
  const echo = (value) => {
    arrived.push(value);
    return value;
  };
  await connect(t, server, "user", { echo });
  assert.deepEqual([await kept, arrived], ["kept", ["kept"]]);
});

test("a handler's call waits no longer than its caller does", async (t) => {
  const server = await startGateway(t);
  const codes = [];
  const order = await connect(
    t,
    server,
    "order",
    {
      ask: () => {
        const asked = order.call("user", "echo", 1);
        codes.push(codeOf(asked));
        return asked;
      },
    },
    patient,
  );
  const web = await connect(t, server, "web");
  const control = new AbortController();
  const asked = codeOf(web.call("order", "ask", null, { signal: control.signal }));
  await waiting(order, 1);
  control.abort();
  assert.deepEqual([await asked, await codes[0]], ["CANCELLED", "CANCELLED"]);
  await expire(
    (timeout) => web.call("order", "ask", null, { timeout }),
    () => codes.length > 1,
  );
  assert.ok(["TIMEOUT", "CANCELLED", "DEADLINE_EXCEEDED"].includes(await codes[1]));
  assert.equal(order.stats().waitingCalls, 0);
});

describe("the gateway", () => {
  test("is waited for as well, once connect() was called", async (t) => {
    const gatewayPath = freePath(t);
    const order = new IPCClient({ serviceName: "order", gatewayPath, waitForGateway: LONG, ...patient });
    atEnd(t, () => order.disconnect());
    assert.equal(await codeOf(order.call("user", "echo", 0)), "NOT_CONNECTED");
    const connecting = order.connect();
    const early = order.call("user", "echo", 1);
    assert.equal(await codeOf(order.call("user", "echo", 0, { waitForService: false })), "NOT_CONNECTED");
    assert.equal(await codeOf(order.call("user", "echo", 0, { waitForService: 30 })), "NOT_CONNECTED");
    await waiting(order, 1);
    const server = await startGateway(t, { socketPath: gatewayPath });
    await connecting;
    await connect(t, server, "user", { echo: (n) => n });
    assert.equal(await early, 1);
  });

  test("may be restarted meanwhile", async (t) => {
    const socketPath = freePath(t);
    const first = new IPCServer({ socketPath });
    atEnd(t, () => first.stop());
    await first.start();
    const order = await connect(t, first, "order", {}, patient);
    const early = order.call("user", "echo", 1);
    await waiting(order, 1);
    await first.stop();
    await until(() => !order.isConnected());
    const late = order.call("user", "echo", 2);
    await waiting(order, 2);
    const second = await startGateway(t, { socketPath });
    await until(() => order.isConnected());
    await connect(t, second, "user", { echo: (n) => n });
    assert.deepEqual(await Promise.all([early, late]), [1, 2]);
  });

  for (const encoding of ["json", "msgpack"]) {
    test(`of the old library has its services waited for, ${encoding}`, async (t) => {
      const gateway = await new OldGateway(freePath(t), { encoding }).start();
      atEnd(t, () => gateway.stop());
      const order = await connect(t, gateway.path, "order", {}, { ...patient, serializer: encoding });
      const call = order.call("old", "twice", 20);
      await waiting(order, 1);
      const old = new OldProgram({ path: gateway.path, name: "old", encoding, methods: { twice: (n) => 2 * n } });
      atEnd(t, () => old.close());
      await old.connect();
      assert.equal(await call, 40);
      assert.equal(await codeOf(order.call("nobody", "x", 1, { waitForService: 50 })), "SERVICE_NOT_FOUND");
    });
  }
});

test("leaving ends the wait, and says that nothing was carried out", async (t) => {
  const server = await startGateway(t);
  const order = await connect(t, server, "order", {}, patient);
  const call = rejection(order.call("user", "echo", 1));
  await waiting(order, 1);
  await order.disconnect({ drain: true });
  const { code, message } = await call;
  assert.equal(code, "NOT_CONNECTED");
  assert.match(message, /not carried out/);
});
