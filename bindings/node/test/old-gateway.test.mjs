// Our client against a gateway of the old JavaScript library.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { IPCClient, IPCError } from "ipc-bro";
import { atEnd, codeOf, collect, connect, freePath, next, rejection, sleep, until } from "./support/ipc.mjs";
import { OldGateway } from "./support/old-gateway.mjs";
import { OldProgram } from "./support/old-program.mjs";

async function startOld(t, options) {
  const gateway = await new OldGateway(freePath(t), options).start();
  atEnd(t, () => gateway.stop());
  return gateway;
}

for (const encoding of ["json", "msgpack"]) {
  for (const poolSize of [1, 3]) {
    describe(`an old gateway that speaks ${encoding}, and pools of ${poolSize}`, () => {
      const config = { serializer: encoding, poolSize };

      test("our clients call each other through it", async (t) => {
        const gateway = await startOld(t, { encoding });
        await connect(t, gateway.path, "user", { find: ({ id }) => ({ id, name: "Ada" }) }, config);
        const order = await connect(t, gateway.path, "order", {}, config);
        const calls = Array.from({ length: 20 }, (_, id) => order.call("user", "find", { id }));
        assert.deepEqual(
          await Promise.all(calls),
          Array.from({ length: 20 }, (_, id) => ({ id, name: "Ada" })),
        );
        const [call] = gateway.of("CALL");
        assert.deepEqual([call.context.chain, call.context.depth, call.from], [["order", "user"], 2, "order"]);
      });

      test("our clients and old programs call each other", async (t) => {
        const gateway = await startOld(t, { encoding });
        const ours = await connect(
          t,
          gateway.path,
          "ours",
          { ask: async (n) => (await ours.call("old", "twice", n)) + 1 },
          config,
        );
        const old = new OldProgram({ path: gateway.path, name: "old", encoding, methods: { twice: (n) => 2 * n } });
        atEnd(t, () => old.close());
        await old.connect();
        assert.equal(await old.call("ours", "ask", 20), 41);
        // What the old program sent is carried on, and extended as documented.
        assert.deepEqual(old.received[0].context.chain, ["old", "old", "old"]);
      });

      test("REGISTER has exactly the fields that it knows", async (t) => {
        const gateway = await startOld(t, { encoding });
        await connect(t, gateway.path, "user", { find: () => 1 }, config);
        assert.equal(gateway.of("REGISTER").length, poolSize);
        for (const register of gateway.of("REGISTER")) {
          assert.deepEqual(Object.keys(register).sort(), ["metadata", "methods", "serviceName", "type", "version"]);
          assert.deepEqual(register.methods, ["find"]);
          assert.equal(typeof register.version, "string");
        }
      });
    });
  }
}

describe("ERROR frames of an old gateway", () => {
  test("that name a call reject it, and are told as gateway-error too", async (t) => {
    const gateway = await startOld(t);
    const order = await connect(t, gateway.path, "order", {}, { timeout: 600_000 });
    const told = collect(order, "gateway-error");
    const error = await rejection(order.call("nobody", "find", {}));
    assert.ok(error instanceof IPCError);
    assert.equal(error.code, "SERVICE_NOT_FOUND");
    await until(() => told.length === 1);
    assert.deepEqual(told, [{ message: error.message, code: "SERVICE_NOT_FOUND", stack: "of the gateway" }]);
  });

  test("that name no call are told as gateway-error; the call ends with its timeout", async (t) => {
    const gateway = await startOld(t, { errorsNameTheCall: false });
    const order = await connect(t, gateway.path, "order", {}, { timeout: 150 });
    const told = collect(order, "gateway-error");
    assert.equal(await codeOf(order.call("nobody", "find", {})), "TIMEOUT");
    await until(() => told.length > 0);
    assert.deepEqual(
      told.map(({ code }) => code),
      ["SERVICE_NOT_FOUND"],
    );
    assert.ok(order.isConnected());
  });

  test("that refuse a name reject connect() at once", async (t) => {
    const gateway = await startOld(t);
    await connect(t, gateway.path, "order");
    const second = new IPCClient({ serviceName: "order", gatewayPath: gateway.path });
    atEnd(t, () => second.disconnect());
    assert.equal(await codeOf(second.connect()), "DUPLICATE_SERVICE");
  });
});

describe("what else an old gateway does", () => {
  test("a callee that dies is never reported: calls end with their timeout", async (t) => {
    const gateway = await startOld(t);
    const callee = new OldProgram({
      path: gateway.path,
      name: "user",
      methods: { never: () => new Promise(() => {}) },
    });
    atEnd(t, () => callee.close());
    await callee.connect();
    const order = await connect(t, gateway.path, "order", {}, { timeout: 1500 });
    const call = codeOf(order.call("user", "never", {}));
    await until(() => callee.received.length === 1);
    callee.drop();
    assert.equal(await call, "TIMEOUT");
  });

  test("a callee of ours that leaves tells its callers by itself", async (t) => {
    const gateway = await startOld(t);
    const callee = await connect(t, gateway.path, "user", { never: () => new Promise(() => {}) });
    const order = await connect(t, gateway.path, "order", {}, { timeout: 600_000 });
    const call = codeOf(order.call("user", "never", {}));
    await until(() => gateway.of("CALL").length === 1);
    await callee.disconnect();
    assert.equal(await call, "SHUTTING_DOWN");
  });

  test("it takes a second REGISTER for a duplicate: late methods are callable nevertheless", async (t) => {
    const gateway = await startOld(t);
    const user = await connect(t, gateway.path, "user", {}, { reconnectDelay: 10 });
    user.registerMethod("late", () => "here");
    const order = await connect(t, gateway.path, "order");
    const answer = await until(() => order.call("user", "late", {}).catch(() => undefined));
    assert.equal(answer, "here");
    await until(() => user.isConnected());
  });

  test("an answer that nobody waits for harms nobody", async (t) => {
    const gateway = await startOld(t);
    await connect(t, gateway.path, "user", { find: () => 1 });
    const order = await connect(t, gateway.path, "order");
    for (const id of ["req-1-aaaaaa", "", "x".repeat(200), "0", "req-9999999999999-zzzzzz"]) {
      gateway.sendTo("order", { type: "RESPONSE", id, from: "user", to: "order", status: "success", data: "stray" });
    }
    gateway.sendTo("order", { type: "SOMETHING", new: true });
    assert.equal(await order.call("user", "find", {}), 1);
  });

  test("a second answer to the same call is dropped", async (t) => {
    const gateway = await startOld(t);
    await connect(t, gateway.path, "user", { find: (n) => n });
    const order = await connect(t, gateway.path, "order");
    const respond = gateway.RESPONSE;
    gateway.RESPONSE = (message) => {
      respond.call(gateway, message);
      respond.call(gateway, { ...message, data: "again" });
    };
    for (let n = 0; n < 5; n++) assert.equal(await order.call("user", "find", n), n);
  });

  test("it goes and comes back: our client reconnects and calls go on", async (t) => {
    const gateway = await startOld(t);
    await connect(t, gateway.path, "user", { find: () => 1 }, { reconnectDelay: 10 });
    const order = await connect(t, gateway.path, "order", {}, { reconnectDelay: 10 });
    const lost = next(order, "disconnected");
    await gateway.stop();
    await lost;
    assert.equal(await codeOf(order.call("user", "find", {})), "NOT_CONNECTED");
    await gateway.start();
    await until(() => order.isConnected());
    assert.equal(await until(() => order.call("user", "find", {}).catch(() => undefined)), 1);
  });

  test("one that never acknowledges: connect() gives up", async (t) => {
    const gateway = await startOld(t);
    gateway.REGISTER = () => {};
    const client = new IPCClient({ serviceName: "order", gatewayPath: gateway.path, autoReconnect: false });
    atEnd(t, () => client.disconnect());
    const error = await rejection(client.connect());
    assert.ok(error instanceof IPCError);
    assert.equal(error.code, "TIMEOUT");
  });

  test("bytes that are no message: the connection is given up and made anew", async (t) => {
    const gateway = await startOld(t);
    const order = await connect(t, gateway.path, "order", {}, { reconnectDelay: 10 });
    for (const hex of ["00000002ffff", "000000027b78", "7fffffff", "0000000191"]) {
      const lost = next(order, "disconnected");
      gateway.services.get("order").sockets[0].write(Buffer.from(hex, "hex"));
      await lost;
      await until(() => order.isConnected());
    }
    await sleep(0);
  });
});
