// A framework on top of the package, as a NestJS module would use it: subclasses, providers, configuration objects, `instanceof`.
import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { describe, test } from "node:test";
import { IPCClient, IPCError, IPCErrorCode, IPCServer } from "ipc-bro";
import { atEnd, connect, freePath, pathOf, rejection, startGateway, until } from "./support/ipc.mjs";

/** A client with the life cycle of a framework. */
class ModuleClient extends IPCClient {
  static created = 0;
  #calls = 0;
  label;

  constructor(options) {
    super({ ...options, autoReconnect: options.autoReconnect ?? true });
    this.label = `${options.serviceName}!`;
    ModuleClient.created++;
    this.on("connected", () => this.emit("module-ready", this.label));
  }

  get calls() {
    return this.#calls;
  }

  async onModuleInit() {
    await this.connect();
  }

  async onModuleDestroy() {
    await this.disconnect();
  }

  call(service, method, params, context) {
    this.#calls++;
    return super.call(service, method, params, context);
  }

  registerMethod(name, handler) {
    super.registerMethod(name, async (params, context) => ({ value: await handler(params, context), by: this.label }));
  }
}

class ModuleServer extends IPCServer {
  seen = [];

  constructor(options) {
    super(options);
    this.on("service-registered", ({ serviceName }) => this.seen.push(serviceName));
  }

  async start() {
    await super.start();
    this.ready = true;
  }

  get names() {
    return this.getConnectedServices();
  }
}

/** What decorators would leave on a class. */
const HANDLERS = Symbol("handlers");
function handles(target, property, method) {
  target[HANDLERS] ??= new Map();
  target[HANDLERS].set(method, property);
}

class UserController {
  constructor(repository) {
    this.repository = repository;
  }

  findOne(params) {
    const user = this.repository.get(params.id);
    if (user === undefined) throw new IPCError("no such user", "USER_NOT_FOUND", { id: params.id });
    return user;
  }

  whoAsks(_, context) {
    return context.chain[context.chain.length - 2];
  }
}
handles(UserController.prototype, "findOne", "users.findOne");
handles(UserController.prototype, "whoAsks", "users.whoAsks");

/** A container: tokens to values, made once when first asked for. */
class Container {
  #factories = new Map();
  #made = new Map();

  provide(token, factory) {
    this.#factories.set(token, factory);
    return this;
  }

  resolve(token) {
    if (!this.#made.has(token)) this.#made.set(token, this.#factories.get(token)(this));
    return this.#made.get(token);
  }
}

describe("subclasses", () => {
  test("keep their own members, and are still what they extend", async (t) => {
    const server = new ModuleServer({ socketPath: freePath(t) });
    atEnd(t, () => server.stop());
    await server.start();
    const user = new ModuleClient({ serviceName: "user", gatewayPath: pathOf(server) });
    const order = new ModuleClient({ serviceName: "order", gatewayPath: pathOf(server) });
    for (const client of [user, order]) {
      assert.ok(client instanceof ModuleClient && client instanceof IPCClient && client instanceof EventEmitter);
      atEnd(t, () => client.onModuleDestroy());
    }
    assert.ok(server instanceof ModuleServer && server instanceof IPCServer && server instanceof EventEmitter);
    user.registerMethod("twice", (n) => 2 * n);
    const ready = new Promise((resolve) => user.once("module-ready", resolve));
    await user.onModuleInit();
    await order.onModuleInit();
    assert.equal(await ready, "user!");
    assert.deepEqual(await order.call("user", "twice", 21), { value: 42, by: "user!" });
    assert.deepEqual([order.calls, server.ready], [1, true]);
    await until(() => server.seen.length === 2);
    assert.deepEqual(server.names.sort(), ["order", "user"]);
  });

  test("whose call() is overridden are used by the typed façade", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { one: () => 1 });
    const order = new ModuleClient({ serviceName: "order", gatewayPath: pathOf(server) });
    atEnd(t, () => order.disconnect());
    await order.connect();
    assert.equal(await order.service("user").one(), 1);
    assert.equal(order.calls, 1);
  });

  test("of IPCError keep their class on their own side, and their code on the other", async (t) => {
    class NotFound extends IPCError {
      constructor(what) {
        super(`${what} was not found`, "NOT_FOUND", { what });
        this.name = "NotFound";
      }
    }
    const local = new NotFound("x");
    assert.ok(local instanceof NotFound && local instanceof IPCError && local instanceof Error);
    assert.equal(local.name, "NotFound");
    const server = await startGateway(t);
    await connect(t, server, "user", {
      find: () => {
        throw new NotFound("Ada");
      },
    });
    const order = await connect(t, server, "order");
    const error = await rejection(order.call("user", "find", {}));
    assert.ok(error instanceof IPCError);
    assert.deepEqual([error.code, error.message], ["NOT_FOUND", "Ada was not found"]);
  });
});

test("a container of providers, and controllers found by what decorators leave", async (t) => {
  const GATEWAY = Symbol("gateway");
  const CLIENT = Symbol("client");
  const OPTIONS = Symbol("options");
  const path = freePath(t);
  const container = new Container()
    .provide(OPTIONS, () => Object.freeze({ serviceName: "users", gatewayPath: path, timeout: 10_000 }))
    .provide(GATEWAY, () => new IPCServer({ socketPath: path }))
    .provide(CLIENT, (c) => new IPCClient(c.resolve(OPTIONS)))
    .provide(Map, () => new Map([["7", { id: "7", name: "Ada" }]]))
    .provide(UserController, (c) => new UserController(c.resolve(Map)));

  const controller = container.resolve(UserController);
  const client = container.resolve(CLIENT);
  for (const [method, property] of UserController.prototype[HANDLERS]) {
    client.registerMethod(method, (params, context) => controller[property](params, context));
  }
  const gateway = container.resolve(GATEWAY);
  atEnd(t, () => gateway.stop());
  await gateway.start();
  atEnd(t, () => client.disconnect());
  await client.connect();

  const web = await connect(t, gateway, "web");
  assert.deepEqual(await web.call("users", "users.findOne", { id: "7" }), { id: "7", name: "Ada" });
  assert.equal(await web.call("users", "users.whoAsks", {}), "web");
  const error = await rejection(web.call("users", "users.findOne", { id: "8" }));
  assert.equal(error.code, "USER_NOT_FOUND");
  assert.deepEqual(gateway.getService("users").methods.sort(), ["users.findOne", "users.whoAsks"]);
});

test("configuration objects are read once and never changed", async (t) => {
  const server = await startGateway(t);
  const config = { serviceName: "order", gatewayPath: pathOf(server), unknownOption: { of: "a framework" } };
  const before = structuredClone(config);
  const client = new IPCClient(config);
  assert.deepEqual(config, before);
  config.gatewayPath = "/nonexistent";
  atEnd(t, () => client.disconnect());
  await client.connect();
  class Config {
    serviceName = "classy";
    get gatewayPath() {
      return pathOf(server);
    }
  }
  const classy = new IPCClient(new Config());
  atEnd(t, () => classy.disconnect());
  await classy.connect();
  assert.ok(server.isServiceConnected("classy"));
});

test("undefined options are like absent ones", async (t) => {
  const server = await startGateway(t, {
    heartbeatInterval: undefined,
    timeout: undefined,
    debug: undefined,
    serializer: undefined,
  });
  const client = await connect(
    t,
    server,
    "order",
    {},
    {
      timeout: undefined,
      autoReconnect: undefined,
      reconnectDelay: undefined,
      heartbeatInterval: undefined,
      debug: undefined,
      serializer: undefined,
      poolSize: undefined,
    },
  );
  assert.ok(client.isConnected());
});

test("error codes can be compared as the enumeration or as text", async (t) => {
  const server = await startGateway(t);
  const client = await connect(t, server, "order");
  const error = await rejection(client.call("nobody", "x", {}));
  assert.equal(error.code, IPCErrorCode.SERVICE_NOT_FOUND);
  assert.equal(error.code, "SERVICE_NOT_FOUND");
});

test("clients survive being logged, cloned by a test framework, or made a proxy's target", async (t) => {
  const { inspect } = await import("node:util");
  const server = await startGateway(t);
  const client = await connect(t, server, "order", { echo: (value) => value });
  assert.equal(typeof inspect(client), "string");
  assert.equal(typeof inspect(server, { depth: 5 }), "string");
  const proxy = new Proxy(client, {});
  assert.equal(proxy.isConnected(), true);
  assert.equal(await proxy.call("order", "echo", 1), 1);
});
