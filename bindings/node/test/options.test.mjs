// Options beyond the readme's, and the figures that clients and servers give of themselves.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { IPCClient, IPCServer } from "ipc-bro";
import { codeOf, connect, freePath, startGateway, until } from "./support/ipc.mjs";

const refused = (make) => assert.throws(make, { name: "IPCError", code: "INVALID_ARGUMENT" });

describe("options that make no sense are refused:", () => {
  const client = {
    protocol: [2, 0, "1", "v1", null],
    lanes: ["auto", 1, null],
    laneSpinUs: [-1, Number.NaN, "10", null],
    waitForService: [-1, Number.NaN, "10", null, {}],
  };
  const server = {
    protocol: [2, "1", null],
    lanes: [true, false, "on", null],
    policy: ["/a", null, {}, { file: 1 }, { path: "/a" }, { file: "/a", toml: "" }],
    mode: ["0600", -1, 0o1777, 1.5, null],
  };
  for (const [name, values] of Object.entries(client)) {
    test(`${name} of a client`, () => {
      for (const value of values) refused(() => new IPCClient({ serviceName: "x", [name]: value }));
    });
  }
  for (const [name, values] of Object.entries(server)) {
    test(`${name} of a server`, () => {
      for (const value of values) refused(() => new IPCServer({ [name]: value }));
    });
  }
});

describe("options are taken:", () => {
  for (const [server, client, v2] of [
    ["auto", "auto", 2],
    ["auto", 1, 0],
    [1, "auto", 0],
    [1, 1, 0],
  ]) {
    test(`protocol ${server} and ${client}`, async (t) => {
      const gateway = await startGateway(t, { protocol: server });
      const user = await connect(t, gateway, "user", { echo: (n) => n }, { protocol: client, poolSize: 2 });
      assert.deepEqual([user.stats().connections, user.stats().connectionsV2], [2, v2]);
      assert.equal(await user.call("user", "echo", 7), 7);
    });
  }

  for (const lanes of ["off", "auto", "always"]) {
    test(`lanes ${lanes}`, async (t) => {
      const gateway = await startGateway(t, { lanes });
      await connect(t, gateway, "user", { echo: (n) => n });
      const order = await connect(t, gateway, "order", {}, { lanes: lanes !== "off", laneSpinUs: 20 });
      for (let n = 0; n < 50; n++) assert.equal(await order.call("user", "echo", n), n);
      if (lanes === "off") assert.equal(gateway.stats().counters.lanesOffered, 0);
    });
  }
});

test("a client counts what it does", async (t) => {
  const server = await startGateway(t);
  const idle = new IPCClient({ serviceName: "idle", gatewayPath: freePath(t) });
  assert.ok(Object.values(idle.stats()).every((figure) => figure === 0));
  const user = await connect(t, server, "user", { echo: (n) => n, never: () => new Promise(() => {}) });
  const order = await connect(t, server, "order");
  for (let n = 0; n < 5; n++) await order.call("user", "echo", n);
  await order.notify("user", "echo", 1);
  assert.equal(await codeOf(order.call("user", "missing", 1)), "METHOD_NOT_FOUND");
  const control = new AbortController();
  const never = codeOf(order.call("user", "never", null, { signal: control.signal }));
  await until(() => user.stats().requestsInWork === 1);
  const { connections, pendingCalls, calls, notifications, registrations, lanes } = order.stats();
  assert.deepEqual(
    { connections, pendingCalls, calls, notifications, registrations, lanes },
    { connections: 1, pendingCalls: 1, calls: 7, notifications: 1, registrations: 1, lanes: 0 },
  );
  const { requests, requestsRefused } = user.stats();
  assert.deepEqual({ requests, requestsRefused }, { requests: 7, requestsRefused: 1 });
  control.abort();
  await never;
  await until(() => order.stats().pendingCalls === 0);
  assert.deepEqual(Object.keys(order.stats()).sort(), [
    "calls",
    "connections",
    "connectionsLost",
    "connectionsV2",
    "lanes",
    "lanesLost",
    "lanesOpened",
    "lateAnswers",
    "notifications",
    "pendingCalls",
    "queuedBytes",
    "registrations",
    "requests",
    "requestsInWork",
    "requestsRefused",
    "waitingCalls",
    "waits",
  ]);
});

test("a server counts what it does, while it runs", async (t) => {
  const server = await startGateway(t);
  await connect(t, server, "user", { echo: (n) => n });
  const order = await connect(t, server, "order");
  for (let n = 0; n < 5; n++) await order.call("user", "echo", n);
  const { counters, users, ...now } = server.stats();
  assert.deepEqual(Object.keys(now).sort(), [
    "inFlight",
    "laneBytes",
    "lanes",
    "memoryBytes",
    "memoryMax",
    "peers",
    "queuedBytes",
    "uptimeMs",
  ]);
  assert.deepEqual([now.peers, now.inFlight, now.lanes], [2, 0, 0]);
  assert.deepEqual([counters.callsRouted, counters.responsesRouted, counters.registrations], [5, 5, 2]);
  const { counters: told } = await order.call("bro.gateway", "status", {});
  assert.deepEqual(Object.keys(counters).sort(), Object.keys(told).sort());
  await server.stop();
  assert.equal(server.stats(), undefined);
  assert.equal(new IPCServer().stats(), undefined);
});

test("a server says what each user has taken, and what is given back is not there any more", async (t) => {
  const server = await startGateway(t);
  assert.deepEqual(server.stats().users, []);
  let answer;
  const waits = new Promise((resolve) => {
    answer = resolve;
  });
  const user = await connect(t, server, "user", { slow: () => waits });
  const order = await connect(t, server, "order", {}, { lanes: false });
  const calls = [1, 2, 3].map((n) => order.call("user", "slow", { n, text: "x".repeat(1000) }));
  await until(() => server.stats().inFlight === 3);
  const { users, memoryBytes, memoryMax, lanes, laneBytes } = server.stats();
  assert.equal(users.length, 1);
  const [own] = users;
  assert.deepEqual(Object.keys(own).sort(), [
    "connections",
    "inFlight",
    "laneBytes",
    "lanes",
    "memoryBytes",
    "registryBytes",
    "uid",
  ]);
  assert.deepEqual([own.uid, own.connections, own.inFlight], [process.getuid(), 2, 3]);
  assert.deepEqual([own.lanes, own.laneBytes, lanes, laneBytes], [0, 0, 0, 0]);
  assert.equal(own.memoryBytes, memoryBytes);
  assert.ok(own.registryBytes > 0 && own.registryBytes < memoryBytes && memoryBytes < memoryMax);
  // It is what `bro status` shows.
  const { users: told } = await order.call("bro.gateway", "status", {});
  assert.deepEqual(Object.keys(told[0]).sort(), Object.keys(own).sort());
  answer("done");
  assert.deepEqual(await Promise.all(calls), ["done", "done", "done"]);
  await order.disconnect();
  await user.disconnect();
  await until(() => server.stats().users.length === 0);
  assert.equal(server.stats().memoryBytes, 0);
});
