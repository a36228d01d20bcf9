// The documented gateway: methods, option defaults, event payloads, errors.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { join } from "node:path";
import { describe, test } from "node:test";
import { IPCError, IPCErrorCode, IPCServer } from "ipc-bro";
import { start } from "./support/children.mjs";
import {
  assertKeys,
  atEnd,
  codeOf,
  collect,
  connect,
  folder,
  freePath,
  next,
  pathOf,
  rejection,
  sleep,
  startGateway,
  until,
} from "./support/ipc.mjs";
import { OldProgram } from "./support/old-program.mjs";

describe("IPCServer: methods", () => {
  test("a server is an EventEmitter, and needs no configuration", () => {
    const server = new IPCServer();
    assert.ok(server instanceof EventEmitter);
    assert.deepEqual(server.getStatus(), {
      running: false,
      socketPath: "/tmp/bro-gateway.sock",
      connectedServices: 0,
      services: [],
    });
  });

  test("start() listens, tells `started`, and resolves", async (t) => {
    const server = new IPCServer({ socketPath: freePath(t) });
    atEnd(t, () => server.stop());
    const started = collect(server, "started");
    assert.equal(await server.start(), undefined);
    assert.ok(existsSync(pathOf(server)));
    await until(() => started.length > 0);
    assert.deepEqual(started, [{ socketPath: pathOf(server) }]);
    assert.equal(server.getStatus().running, true);
  });

  test("start() takes over the socket file of a gateway that is dead", async (t) => {
    const path = freePath(t);
    const dead = start(t, "gateway.mjs", path);
    await dead.printed("ready");
    dead.child.kill("SIGKILL");
    await dead.exit;
    assert.ok(existsSync(path), "a killed gateway leaves its file");
    const server = await startGateway(t, { socketPath: path });
    await connect(t, server, "a");
    assert.deepEqual(server.getConnectedServices(), ["a"]);
  });

  test("start() fails with an IPCError where it cannot listen", async (t) => {
    const file = join(folder(t), "a-file");
    writeFileSync(file, "");
    const server = new IPCServer({ socketPath: join(file, "gateway.sock") });
    const error = await rejection(server.start());
    assert.ok(error instanceof IPCError, String(error));
    assert.equal(typeof error.code, "string");
    assert.equal(server.getStatus().running, false);
  });

  test("start() leaves a file alone that is no socket", async (t) => {
    const path = freePath(t);
    writeFileSync(path, "mine");
    assert.ok((await rejection(new IPCServer({ socketPath: path }).start())) instanceof IPCError);
    assert.ok(existsSync(path));
  });

  test("a second gateway refuses to start while the first is alive", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "a", { ping: () => "pong" });
    const error = await rejection(new IPCServer({ socketPath: pathOf(server) }).start());
    assert.ok(error instanceof IPCError, String(error));
    const b = await connect(t, server, "b");
    assert.equal(await b.call("a", "ping", null), "pong");
  });

  test("a server that failed to start can be started again", async (t) => {
    const server = await startGateway(t);
    const second = new IPCServer({ socketPath: pathOf(server) });
    atEnd(t, () => second.stop());
    await rejection(second.start());
    await server.stop();
    await second.start();
    assert.equal(second.getStatus().running, true);
  });

  test("stop() closes connections, removes the socket file, clears the registry, tells `stopped`", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "a", {}, { autoReconnect: false });
    const lost = next(client, "disconnected");
    const stopped = next(server, "stopped");
    const path = pathOf(server);
    assert.equal(await server.stop(), undefined);
    assert.deepEqual(await stopped, []);
    await lost;
    assert.equal(existsSync(path), false);
    assert.deepEqual(server.getConnectedServices(), []);
    assert.equal(server.getService("a"), undefined);
    assert.equal(server.getStatus().running, false);
    assert.equal(server.getStatus().connectedServices, 0);
  });

  test("stop() may be called twice, at once, and before start()", async (t) => {
    const never = new IPCServer({ socketPath: freePath(t) });
    await never.stop();
    const server = await startGateway(t);
    await Promise.all([server.stop(), server.stop()]);
    await server.stop();
  });

  test("a stopped server starts again on the same path", async (t) => {
    const server = await startGateway(t);
    for (let round = 0; round < 3; round++) {
      await server.stop();
      await server.start();
      const client = await connect(t, server, `round-${round}`);
      assert.ok(server.isServiceConnected(`round-${round}`));
      await client.disconnect();
    }
  });

  test("getConnectedServices() and isServiceConnected() follow connects and disconnects", async (t) => {
    const server = await startGateway(t);
    assert.deepEqual(server.getConnectedServices(), []);
    const a = await connect(t, server, "a");
    await connect(t, server, "b");
    assert.deepEqual(server.getConnectedServices().sort(), ["a", "b"]);
    assert.equal(server.isServiceConnected("a"), true);
    assert.equal(server.isServiceConnected("c"), false);
    await a.disconnect();
    await until(() => !server.isServiceConnected("a"));
    assert.deepEqual(server.getConnectedServices(), ["b"]);
  });

  test("getService() returns the documented entry", async (t) => {
    const server = await startGateway(t);
    const before = Date.now();
    await connect(t, server, "order", { getOrderList: () => [], createOrder: () => {} });
    const entry = server.getService("order");
    assertKeys(
      entry,
      ["name", "socket", "instances", "methods", "connectedAt", "lastHeartbeat", "metadata"],
      ["version"],
    );
    assert.equal(entry.name, "order");
    assert.deepEqual([...entry.methods].sort(), ["createOrder", "getOrderList"]);
    assert.equal(typeof entry.socket, "object");
    for (const time of [entry.connectedAt, entry.lastHeartbeat]) {
      assert.ok(time >= before - 1000 && time <= Date.now() + 1000, `${time} is not the present`);
    }
    assert.equal(typeof entry.metadata, "object");
    assert.equal(server.getService("nobody"), undefined);
  });

  test("getService() tells what is known of the connection", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "packed", {}, { serializer: "msgpack", poolSize: 2 });
    const { socket } = server.getService("packed");
    assert.deepEqual(
      { pid: socket.pid, encoding: socket.encoding, connections: socket.connections },
      { pid: process.pid, encoding: "msgpack", connections: 2 },
    );
  });

  test("lastHeartbeat moves with the heartbeats", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "a", {}, { heartbeatInterval: 20 });
    const first = server.getService("a").lastHeartbeat;
    await until(() => server.getService("a").lastHeartbeat > first);
  });

  test("getStatus() has exactly the documented fields", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "a");
    await connect(t, server, "b");
    const status = server.getStatus();
    assertKeys(status, ["running", "socketPath", "connectedServices", "services"]);
    assert.deepEqual(
      { ...status, services: status.services.sort() },
      {
        running: true,
        socketPath: pathOf(server),
        connectedServices: 2,
        services: ["a", "b"],
      },
    );
  });
});

describe("IPCServer: options", () => {
  test("timeout is 30000 by default, and is the time of calls without a context", async (t) => {
    for (const [config, expected] of [
      [{}, 30_000],
      [{ timeout: 5000 }, 5000],
    ]) {
      const server = await startGateway(t, config);
      const seen = [];
      await connect(t, server, "callee", { look: (_, context) => void seen.push(context) });
      const old = await new OldProgram({ path: pathOf(server), name: "old" }).connect();
      atEnd(t, () => old.close());
      const before = Date.now();
      await old.call("callee", "look", null, { context: null });
      const left = seen[0].deadline - before;
      assert.ok(left >= expected - 1000 && left <= expected + (Date.now() - before) + 1000, `${left} of ${expected}`);
      assert.deepEqual([seen[0].chain, seen[0].depth], [["old", "callee"], 2]);
    }
  });

  test("heartbeatInterval: three silent intervals and a service is dropped; the default is patient", async (t) => {
    const impatient = await startGateway(t, { heartbeatInterval: 40 });
    const patient = await startGateway(t);
    const gone = next(impatient, "service-disconnected");
    const open = async (server) => {
      const old = await new OldProgram({ path: pathOf(server), name: "silent" }).connect();
      atEnd(t, () => old.close());
      return old;
    };
    const dropped = await open(impatient);
    const closed = next(dropped, "close");
    await open(patient);
    assert.deepEqual(await gone, [{ serviceName: "silent" }]);
    await closed;
    assert.ok(patient.isServiceConnected("silent"));
  });

  test("debug is off by default: nothing is printed; on, routed calls are", async (t) => {
    const quiet = await start(t, "chatter.mjs", freePath(t), "false").exit;
    assert.deepEqual([quiet.code, quiet.stdout, quiet.stderr], [0, "", ""]);
    const loud = await start(t, "chatter.mjs", freePath(t), "true").exit;
    assert.equal(loud.code, 0, loud.stderr);
    assert.match(loud.stdout + loud.stderr, /callee/);
  });

  test("serializer is accepted; the gateway serves both encodings at once whatever it says", async (t) => {
    for (const serializer of ["json", "msgpack"]) {
      const server = await startGateway(t, { serializer });
      await connect(t, server, "a", { echo: (value) => value }, { serializer: "json" });
      const b = await connect(t, server, "b", {}, { serializer: "msgpack" });
      assert.deepEqual(await b.call("a", "echo", { x: [1, "two", null] }), { x: [1, "two", null] });
    }
  });
});

describe("IPCServer: events", () => {
  test("service-registered has name, methods, version and metadata", async (t) => {
    const server = await startGateway(t);
    const registered = next(server, "service-registered");
    await connect(t, server, "order", { list: () => [] });
    const [payload] = await registered;
    assertKeys(payload, ["serviceName", "methods"], ["version", "metadata"]);
    assert.equal(payload.serviceName, "order");
    assert.deepEqual(payload.methods, ["list"]);
  });

  test("service-registered carries an old program's version and metadata", async (t) => {
    const server = await startGateway(t);
    const registered = next(server, "service-registered");
    const old = await new OldProgram({ path: pathOf(server), name: "old", methods: { a: () => 1 } }).connect();
    atEnd(t, () => old.close());
    assert.deepEqual(await registered, [{ serviceName: "old", methods: ["a"], version: "1.0.0", metadata: {} }]);
  });

  test("service-disconnected has the name alone", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "order");
    const gone = next(server, "service-disconnected");
    await client.disconnect();
    assert.deepEqual(await gone, [{ serviceName: "order" }]);
  });

  test("call-routed and response-routed have exactly their fields, and one request id", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "callee", {
      work: () => 1,
      fail: () => {
        throw new Error("no");
      },
    });
    const caller = await connect(t, server, "caller");
    const calls = collect(server, "call-routed");
    const responses = collect(server, "response-routed");
    await caller.call("callee", "work", { secret: 1 });
    assert.equal(await codeOf(caller.call("callee", "fail", null)), "EXECUTION_FAILED");
    await until(() => calls.length === 2 && responses.length === 2);
    for (const call of calls) {
      assertKeys(call, ["from", "to", "method", "requestId", "context"]);
      assert.deepEqual([call.from, call.to], ["caller", "callee"]);
      assertKeys(call.context, ["root", "chain", "depth", "deadline"]);
      assert.deepEqual([call.context.chain, call.context.depth], [["caller", "callee"], 2]);
    }
    for (const response of responses) {
      assertKeys(response, ["from", "to", "status", "requestId"]);
      assert.deepEqual([response.from, response.to], ["callee", "caller"]);
    }
    assert.deepEqual(
      calls.map((call) => call.method),
      ["work", "fail"],
    );
    assert.deepEqual(
      responses.map((response) => response.status),
      ["success", "error"],
    );
    assert.deepEqual(
      responses.map((response) => response.requestId),
      calls.map((call) => call.requestId),
    );
  });

  test("listeners may come and go while calls are made", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "callee", { work: () => 1 });
    const caller = await connect(t, server, "caller");
    for (let round = 0; round < 50; round++) {
      const calls = collect(server, "call-routed");
      await caller.call("callee", "work", null);
      await until(() => calls.length === 1);
      server.removeAllListeners("call-routed");
      await caller.call("callee", "work", null);
      await sleep(2);
      assert.equal(calls.length, 1);
    }
  });

  test("log tells message and timestamp whatever debug says", async (t) => {
    const server = new IPCServer({ socketPath: freePath(t) });
    atEnd(t, () => server.stop());
    const logs = collect(server, "log");
    await server.start();
    await connect(t, server, "order");
    await until(() => logs.length > 0);
    for (const entry of logs) {
      assertKeys(entry, ["message", "timestamp"], ["data"]);
      assert.equal(typeof entry.message, "string");
      assert.ok(Math.abs(entry.timestamp - Date.now()) < 60_000);
    }
  });

  test("connection tells of every peer", async (t) => {
    const server = await startGateway(t);
    const connected = next(server, "connection");
    await connect(t, server, "order");
    await connected;
  });

  test("peers that break the protocol harm nobody, and need no listener for `error`", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "a", { ping: () => "pong" });
    const b = await connect(t, server, "b");
    const hex = [
      "ffffffff",
      "00000000",
      "00000005ffffffffff",
      "00000002313200",
      "000000027b7d",
      "0000000680",
      Buffer.from("GET / HTTP/1.1\r\n\r\n").toString("hex"),
    ];
    await Promise.all(
      hex.map(
        (bytes) =>
          new Promise((resolve) => {
            const socket = createConnection(pathOf(server), () => socket.end(Buffer.from(bytes, "hex")));
            socket
              .on("close", resolve)
              .on("error", () => {})
              .resume();
          }),
      ),
    );
    assert.equal(await b.call("a", "ping", null), "pong");
    assert.deepEqual(server.getConnectedServices().sort(), ["a", "b"]);
  });

  test("error: a gateway whose socket is taken by a live program says why", async (t) => {
    const path = freePath(t);
    const foreign = createServer((socket) => socket.on("error", () => {}));
    await new Promise((resolve) => foreign.listen(path, resolve));
    atEnd(t, () => new Promise((resolve) => foreign.close(resolve)));
    const server = new IPCServer({ socketPath: path });
    const errors = collect(server, "error");
    const error = await rejection(server.start());
    assert.ok(error instanceof IPCError);
    for (const told of errors) assert.ok(told instanceof Error);
  });
});

test("IPCErrorCode has the documented codes, each its own name", () => {
  const documented = [
    "CONNECTION_FAILED",
    "CONNECTION_LOST",
    "NOT_CONNECTED",
    "SERVICE_NOT_FOUND",
    "METHOD_NOT_FOUND",
    "EXECUTION_FAILED",
    "TIMEOUT",
    "DEADLINE_EXCEEDED",
    "INVALID_MESSAGE",
    "SERIALIZATION_FAILED",
    "DESERIALIZATION_FAILED",
    "INVALID_CONTEXT",
    "MAX_DEPTH_EXCEEDED",
    "INTERNAL_ERROR",
    "DUPLICATE_SERVICE",
    "NOT_REGISTERED",
    "PAYLOAD_TOO_LARGE",
    "OVERLOADED",
    "RESOURCE_EXHAUSTED",
    "SHUTTING_DOWN",
    "CANCELLED",
    "PERMISSION_DENIED",
    "INVALID_ARGUMENT",
  ];
  assert.deepEqual(Object.keys(IPCErrorCode).sort(), documented.sort());
  for (const [key, value] of Object.entries(IPCErrorCode)) assert.equal(key, value);
});

test("IPCError is an Error with code and details", () => {
  const error = new IPCError("text", IPCErrorCode.TIMEOUT, { more: 1 });
  assert.ok(error instanceof Error && error instanceof IPCError);
  assert.deepEqual(
    [error.message, error.code, error.name, error.details],
    ["text", "TIMEOUT", "IPCError", { more: 1 }],
  );
  assert.match(error.stack, /readme-server\.test/);
  assert.equal(new IPCError("text", "X").details, undefined);
});
