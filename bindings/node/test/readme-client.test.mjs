// The documented client: methods, option defaults, event payloads, errors.
import assert from "node:assert/strict";
import { EventEmitter, on } from "node:events";
import { describe, test } from "node:test";
import { IPCClient, IPCError } from "ipc-bro";
import {
  assertKeys,
  atEnd,
  codeOf,
  collect,
  connect,
  freePath,
  next,
  pathOf,
  rejection,
  sleep,
  startGateway,
  until,
} from "./support/ipc.mjs";
import { OldGateway } from "./support/old-gateway.mjs";

/** A gateway that shows what clients send. */
async function observing(t, options) {
  const gateway = await new OldGateway(freePath(t), options).start();
  atEnd(t, () => gateway.stop());
  return gateway;
}

describe("IPCClient: methods", () => {
  test("a client is an EventEmitter that is not connected", () => {
    const client = new IPCClient({ serviceName: "order" });
    assert.ok(client instanceof EventEmitter);
    assert.equal(client.isConnected(), false);
    assert.deepEqual(client.getStatus(), {
      connected: false,
      registered: false,
      serviceName: "order",
      pendingRequests: 0,
      registeredMethods: 0,
    });
  });

  test("connect() connects, registers, and tells `connected` and `registered`", async (t) => {
    const server = await startGateway(t);
    const client = new IPCClient({ serviceName: "order", gatewayPath: pathOf(server) });
    atEnd(t, () => client.disconnect());
    const [connected, registered] = [next(client, "connected"), next(client, "registered")];
    assert.equal(await client.connect(), undefined);
    assert.deepEqual([await connected, await registered], [[], []]);
    assert.equal(client.isConnected(), true);
    assert.equal(server.isServiceConnected("order"), true);
  });

  test("connect() rejects with an IPCError where no gateway is, and needs no listener for `error`", async (t) => {
    const client = new IPCClient({ serviceName: "order", gatewayPath: freePath(t), autoReconnect: false });
    const error = await rejection(client.connect());
    assert.ok(error instanceof IPCError);
    assert.equal(error.code, "CONNECTION_FAILED");
    assert.equal(client.isConnected(), false);
    await client.disconnect();
  });

  test("a client whose connect() failed connects when there is a gateway", async (t) => {
    const path = freePath(t);
    const client = new IPCClient({ serviceName: "order", gatewayPath: path });
    atEnd(t, () => client.disconnect());
    await rejection(client.connect());
    const server = await startGateway(t, { socketPath: path });
    await client.connect();
    assert.ok(server.isServiceConnected("order"));
  });

  test("connect() with a name that is taken rejects at once", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "order");
    const second = new IPCClient({ serviceName: "order", gatewayPath: pathOf(server) });
    atEnd(t, () => second.disconnect());
    const error = await rejection(second.connect());
    assert.ok(error instanceof IPCError);
    assert.equal(error.code, "DUPLICATE_SERVICE");
    assert.equal(second.isConnected(), false);
  });

  test("connect() with a name of the gateway's own rejects", async (t) => {
    const server = await startGateway(t);
    const client = new IPCClient({ serviceName: "bro.mine", gatewayPath: pathOf(server), autoReconnect: false });
    assert.equal(await codeOf(client.connect()), "PERMISSION_DENIED");
  });

  test("connect() twice, at once or later, is one connection", async (t) => {
    const server = await startGateway(t);
    const client = new IPCClient({ serviceName: "order", gatewayPath: pathOf(server) });
    atEnd(t, () => client.disconnect());
    await Promise.all([client.connect(), client.connect()]);
    await client.connect();
    assert.equal(server.getService("order").socket.connections, 1);
  });

  test("disconnect() rejects pending calls, tells `disconnected`, frees the name, and is final", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "slow", { never: () => new Promise(() => {}) });
    const client = await connect(t, server, "order");
    const pending = [1, 2, 3].map(() => codeOf(client.call("slow", "never", {})));
    assert.equal(client.getStatus().pendingRequests, 3);
    const lost = next(client, "disconnected");
    assert.equal(await client.disconnect(), undefined);
    assert.deepEqual(await Promise.all(pending), Array(3).fill("CONNECTION_LOST"));
    assert.deepEqual(await lost, []);
    assert.equal(client.isConnected(), false);
    assert.equal(client.getStatus().pendingRequests, 0);
    await until(() => !server.isServiceConnected("order"));
    await sleep(50);
    assert.equal(server.isServiceConnected("order"), false, "it does not reconnect by itself");
  });

  test("disconnect() may be called twice, at once, and before connect()", async (t) => {
    const server = await startGateway(t);
    await new IPCClient({ serviceName: "never", gatewayPath: pathOf(server) }).disconnect();
    const client = await connect(t, server, "order");
    await Promise.all([client.disconnect(), client.disconnect()]);
    await client.disconnect();
  });

  test("connect() after disconnect() works again", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "order", { ping: () => "pong" });
    const other = await connect(t, server, "other");
    for (let round = 0; round < 5; round++) {
      await client.disconnect();
      await client.connect();
      assert.equal(await other.call("order", "ping", null), "pong");
    }
  });

  test("disconnect() during connect() ends both", async (t) => {
    const server = await startGateway(t);
    const client = new IPCClient({ serviceName: "order", gatewayPath: pathOf(server) });
    const connecting = client.connect().then(
      () => "connected",
      (error) => error,
    );
    await client.disconnect();
    const outcome = await connecting;
    assert.ok(outcome === "connected" || outcome instanceof IPCError, String(outcome));
    assert.equal(client.isConnected(), false);
    await until(() => !server.isServiceConnected("order"));
  });

  test("registerMethod() gives the handler params and context; its result goes to the caller", async (t) => {
    const server = await startGateway(t);
    const seen = [];
    await connect(t, server, "user", {
      getUserById: async (params, context) => {
        seen.push({ params, context });
        return { id: params.userId, name: "Ada" };
      },
    });
    const order = await connect(t, server, "order");
    assert.deepEqual(await order.call("user", "getUserById", { userId: "123" }), { id: "123", name: "Ada" });
    assert.deepEqual(seen[0].params, { userId: "123" });
    assertKeys(seen[0].context, ["root", "chain", "depth", "deadline"]);
    assert.deepEqual([seen[0].context.chain, seen[0].context.depth], [["order", "user"], 2]);
    assert.match(seen[0].context.root, /^root-\d+-[0-9a-z]{6}$/);
  });

  test("registerMethod() takes plain functions, and the last handler of a name counts", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user", { version: () => 1 });
    const order = await connect(t, server, "order");
    assert.equal(await order.call("user", "version", null), 1);
    user.registerMethod("version", () => 2);
    assert.equal(await order.call("user", "version", null), 2);
    assert.deepEqual(user.getRegisteredMethods(), ["version"]);
  });

  test("methods registered after connect() are advertised and callable at once", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user");
    const order = await connect(t, server, "order");
    user.registerMethod("late", () => "here");
    assert.equal(await order.call("user", "late", null), "here");
    await until(() => server.getService("user").methods.includes("late"));
  });

  test("unregisterMethod() takes effect at once, everywhere", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user", { old: () => 1, stays: () => 2 });
    const order = await connect(t, server, "order");
    assert.equal(await order.call("user", "old", null), 1);
    user.unregisterMethod("old");
    assert.equal(await codeOf(order.call("user", "old", null)), "METHOD_NOT_FOUND");
    await until(() => !server.getService("user").methods.includes("old"));
    assert.deepEqual(server.getService("user").methods, ["stays"]);
    user.unregisterMethod("was never there");
  });

  test("call() to a service or method that is not there", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user");
    const order = await connect(t, server, "order");
    for (const [service, method, code, text] of [
      ["nobody", "find", "SERVICE_NOT_FOUND", /nobody/],
      ["user", "nothing", "METHOD_NOT_FOUND", /nothing/],
    ]) {
      const error = await rejection(order.call(service, method, {}));
      assert.ok(error instanceof IPCError && error instanceof Error);
      assert.equal(error.code, code);
      assert.match(error.message, text);
    }
  });

  test("call() when not connected rejects with NOT_CONNECTED", async (t) => {
    const server = await startGateway(t);
    const client = new IPCClient({ serviceName: "order", gatewayPath: pathOf(server) });
    const error = await rejection(client.call("user", "find", {}));
    assert.ok(error instanceof IPCError);
    assert.equal(error.code, "NOT_CONNECTED");
    await client.connect();
    await client.disconnect();
    assert.equal(await codeOf(client.call("user", "find", {})), "NOT_CONNECTED");
  });

  test("call() that is not answered in time rejects with TIMEOUT", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "slow", { never: () => new Promise(() => {}) });
    const order = await connect(t, server, "order", {}, { timeout: 60 });
    const error = await rejection(order.call("slow", "never", {}));
    assert.ok(error instanceof IPCError);
    assert.equal(error.code, "TIMEOUT");
    assert.equal(order.getStatus().pendingRequests, 0);
  });

  test("getRegisteredMethods() lists the methods, before and after connecting", async (t) => {
    const server = await startGateway(t);
    const client = new IPCClient({ serviceName: "user", gatewayPath: pathOf(server) });
    assert.deepEqual(client.getRegisteredMethods(), []);
    client.registerMethod("b", () => 1);
    client.registerMethod("a", () => 1);
    assert.deepEqual(client.getRegisteredMethods().sort(), ["a", "b"]);
    await client.connect();
    atEnd(t, () => client.disconnect());
    assert.deepEqual(client.getRegisteredMethods().sort(), ["a", "b"]);
    client.unregisterMethod("a");
    assert.deepEqual(client.getRegisteredMethods(), ["b"]);
  });

  test("getStatus() has exactly the documented fields", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "slow", { never: () => new Promise(() => {}) });
    const client = await connect(t, server, "order", { a: () => 1, b: () => 2 });
    const pending = rejection(client.call("slow", "never", {}));
    assert.deepEqual(client.getStatus(), {
      connected: true,
      registered: true,
      serviceName: "order",
      pendingRequests: 1,
      registeredMethods: 2,
    });
    await client.disconnect();
    await pending;
  });
});

describe("IPCClient: options", () => {
  test("serviceName is required", () => {
    for (const config of [undefined, {}, { serviceName: "" }, { serviceName: 7 }]) {
      assert.throws(() => new IPCClient(config), Error, JSON.stringify(config));
    }
  });

  test("timeout is 30000 by default and sets the deadline", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { deadline: (_, context) => context.deadline });
    for (const [name, config, expected] of [
      ["a", {}, 30_000],
      ["b", { timeout: 120_000 }, 120_000],
    ]) {
      const client = await connect(t, server, name, {}, config);
      const before = Date.now();
      const deadline = await client.call("user", "deadline", {});
      assert.ok(
        deadline - before >= expected - 1000 && deadline - Date.now() <= expected + 1000,
        `${deadline - before}`,
      );
    }
  });

  test("heartbeatInterval: heartbeats name the service and the time; by default none comes soon", async (t) => {
    const gateway = await observing(t);
    await connect(t, gateway.path, "often", {}, { heartbeatInterval: 20 });
    await connect(t, gateway.path, "rarely");
    await until(() => gateway.of("HEARTBEAT").length >= 3);
    for (const beat of gateway.of("HEARTBEAT")) {
      assertKeys(beat, ["type", "from", "timestamp"]);
      assert.equal(beat.from, "often");
      assert.ok(Math.abs(beat.timestamp - Date.now()) < 60_000);
    }
  });

  test("serializer is json by default, and msgpack on demand", async (t) => {
    const json = await observing(t, { encoding: "json" });
    await connect(t, json.path, "a");
    const packed = await observing(t, { encoding: "msgpack" });
    await connect(t, packed.path, "b", {}, { serializer: "msgpack" });
    assert.deepEqual([json.of("REGISTER")[0].serviceName, packed.of("REGISTER")[0].serviceName], ["a", "b"]);
  });

  test("poolSize is 1 by default; more connections say which of how many they are", async (t) => {
    const gateway = await observing(t);
    await connect(t, gateway.path, "one");
    await connect(t, gateway.path, "four", {}, { poolSize: 4 });
    const pools = gateway.of("REGISTER").map(({ serviceName, metadata }) => ({
      serviceName,
      poolSize: metadata?.poolSize,
      poolIndex: metadata?.poolIndex,
    }));
    assert.deepEqual(pools.slice(0, 1), [{ serviceName: "one", poolSize: undefined, poolIndex: undefined }]);
    const four = pools.slice(1).sort((a, b) => a.poolIndex - b.poolIndex);
    assert.deepEqual(
      four,
      [0, 1, 2, 3].map((poolIndex) => ({ serviceName: "four", poolSize: 4, poolIndex })),
    );
  });

  test("autoReconnect is on by default, and starts again after reconnectDelay", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "order", { ping: () => "pong" }, { reconnectDelay: 20 });
    const lost = next(client, "disconnected");
    await server.stop();
    await lost;
    assert.equal(client.isConnected(), false);
    const back = [next(client, "connected"), next(client, "registered")];
    await server.start();
    await Promise.all(back);
    const other = await connect(t, server, "other");
    assert.equal(await other.call("order", "ping", null), "pong");
  });

  test("autoReconnect: false stays disconnected", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "order", {}, { autoReconnect: false, reconnectDelay: 10 });
    const lost = next(client, "disconnected");
    await server.stop();
    await lost;
    await server.start();
    await sleep(200);
    assert.equal(client.isConnected(), false);
    await client.connect();
    assert.ok(client.isConnected());
  });

  test("reconnectDelay is 5000 by default: not at once", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "order");
    const lost = next(client, "disconnected");
    await server.stop();
    await lost;
    await server.start();
    await sleep(300);
    assert.equal(client.isConnected(), false);
  });
});

describe("IPCClient: events", () => {
  test("method-executed, for success and failure", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user", {
      good: () => 1,
      bad: () => {
        throw new Error("broken");
      },
    });
    const executed = collect(user, "method-executed");
    const order = await connect(t, server, "order");
    await order.call("user", "good", {});
    await rejection(order.call("user", "bad", {}));
    await until(() => executed.length === 2);
    const [good, bad] = executed;
    assertKeys(good, ["method", "requestId", "success"]);
    assert.deepEqual([good.method, good.success], ["good", true]);
    assertKeys(bad, ["method", "requestId", "success", "error"]);
    assert.deepEqual([bad.method, bad.success, bad.error], ["bad", false, "broken"]);
    assert.equal(typeof good.requestId, "string");
    assert.notEqual(good.requestId, bad.requestId);
  });

  test("response-received, for success and failure", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { good: () => 1 });
    const order = await connect(t, server, "order");
    const received = collect(order, "response-received");
    await order.call("user", "good", {});
    await rejection(order.call("user", "missing", {}));
    await until(() => received.length === 2);
    assertKeys(received[0], ["requestId", "success"]);
    assert.equal(received[0].success, true);
    assertKeys(received[1], ["requestId", "success", "error"]);
    assert.equal(received[1].success, false);
    assert.equal(typeof received[1].error, "string");
  });

  test("gateway-error beside the rejection, where the gateway itself refuses", async (t) => {
    const server = await startGateway(t);
    const order = await connect(t, server, "order");
    const told = collect(order, "gateway-error");
    const error = await rejection(order.call("nobody", "find", {}));
    await until(() => told.length === 1);
    assertKeys(told[0], ["message", "code"], ["stack"]);
    assert.deepEqual([told[0].code, told[0].message], [error.code, error.message]);
  });

  test("no gateway-error for what a handler throws", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", {
      bad: () => {
        throw Object.assign(new Error("mine"), { code: "SERVICE_NOT_FOUND" });
      },
    });
    const order = await connect(t, server, "order");
    const told = collect(order, "gateway-error");
    assert.equal(await codeOf(order.call("user", "bad", {})), "SERVICE_NOT_FOUND");
    await sleep(20);
    assert.deepEqual(told, []);
  });

  test("connected, disconnected and registered have no payload, also when a connection is lost", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "order", {}, { reconnectDelay: 10 });
    const told = [];
    for (const event of ["connected", "disconnected", "registered"]) {
      client.on(event, (...values) => told.push([event, values]));
    }
    await server.stop();
    await server.start();
    await until(() => told.length >= 3);
    assert.equal(told[0][0], "disconnected");
    assert.deepEqual(
      told
        .slice(0, 3)
        .map(([event]) => event)
        .sort(),
      ["connected", "disconnected", "registered"],
    );
    assert.ok(told.every(([, values]) => values.length === 0));
  });

  test("log has serviceName, message, timestamp", async (t) => {
    const server = await startGateway(t);
    const client = new IPCClient({ serviceName: "order", gatewayPath: pathOf(server) });
    atEnd(t, () => client.disconnect());
    const logs = collect(client, "log");
    await client.connect();
    await client.disconnect();
    await until(() => logs.length > 0);
    for (const entry of logs) {
      assertKeys(entry, ["serviceName", "message", "timestamp"], ["data"]);
      assert.equal(entry.serviceName, "order");
      assert.equal(typeof entry.message, "string");
    }
  });

  test("error is told as an Error, and a client without a listener for it survives", async (t) => {
    const gateway = await observing(t);
    const told = await connect(t, gateway.path, "told", {}, { reconnectDelay: 10 });
    const deaf = await connect(t, gateway.path, "deaf", {}, { reconnectDelay: 10 });
    const errors = collect(told, "error");
    const lost = [next(told, "disconnected"), next(deaf, "disconnected")];
    for (const name of ["told", "deaf"]) gateway.services.get(name).sockets[0].write(Buffer.from("ffffffff", "hex"));
    await Promise.all(lost);
    await until(() => told.isConnected() && deaf.isConnected());
    for (const error of errors) assert.ok(error instanceof Error);
  });

  test("events can be iterated with for await", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "user", { work: (n) => n });
    const order = await connect(t, server, "order");
    const control = new AbortController();
    const iterator = on(client, "method-executed", { signal: control.signal });
    for (let n = 0; n < 3; n++) await order.call("user", "work", n);
    const methods = [];
    for await (const [payload] of iterator) {
      methods.push(payload.method);
      if (methods.length === 3) break;
    }
    assert.deepEqual(methods, ["work", "work", "work"]);
    control.abort();
  });

  test("once, off, prependListener and listenerCount work as on any EventEmitter", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "user", { work: () => 1 });
    const order = await connect(t, server, "order");
    const told = [];
    const listener = () => told.push("on");
    client.on("method-executed", listener);
    client.once("method-executed", () => told.push("once"));
    client.prependListener("method-executed", () => told.push("first"));
    assert.equal(client.listenerCount("method-executed"), 3);
    await order.call("user", "work", 1);
    await until(() => told.length === 3);
    client.off("method-executed", listener);
    await order.call("user", "work", 1);
    await until(() => told.length === 4);
    assert.deepEqual(told, ["first", "on", "once", "first"]);
  });
});
