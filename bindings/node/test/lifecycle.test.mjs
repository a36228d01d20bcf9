// Processes: they end by themselves, survive the deaths of others, and hear of exceptions in their listeners.
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { describe, test } from "node:test";
import { IPCClient } from "ipc-bro";
import { program, start, startNode } from "./support/children.mjs";
import { atEnd, codeOf, collect, connect, freePath, next, pathOf, sleep, startGateway, until } from "./support/ipc.mjs";

describe("a process ends by itself", () => {
  const lives = {
    "import alone": [],
    "require alone": [],
    "never connected": [],
    "never started": [],
    "gateway stopped": [],
    "everything closed": ["called"],
    "calls pending": ["CONNECTION_LOST"],
    "disconnect not awaited": [],
    "disconnect while reconnecting": [],
    "connect failed": ["CONNECTION_FAILED"],
    "lost for good": [],
    "await using": ["false false"],
    "nothing awaited": [],
    "failed calls only": [],
  };
  for (const [life, printed] of Object.entries(lives)) {
    test(life, async (t) => {
      const path = freePath(t);
      const { code, signal, lines, stderr } = await start(t, "whole-life.mjs", life, path).exit;
      assert.deepEqual(
        { code, signal, lines, stderr },
        { code: 0, signal: null, lines: [...printed, "end"], stderr: "" },
      );
      assert.equal(existsSync(path), false, "the socket file is gone");
    });
  }

  for (const life of ["process.exit with everything open", "process.exit in a handler"]) {
    test(life, async (t) => {
      const { code, signal, stderr } = await start(t, "whole-life.mjs", life, freePath(t)).exit;
      assert.deepEqual({ code, signal, stderr }, { code: 7, signal: null, stderr: "" });
    });
  }

  test("but a connected client keeps it, as a socket does", async (t) => {
    const server = await startGateway(t);
    const stays = start(t, "stays.mjs", pathOf(server));
    await until(() => server.isServiceConnected("stays"));
    await sleep(300);
    assert.equal(stays.child.exitCode, null);
    const client = await connect(t, server, "order");
    await client.call("stays", "leave", null);
    assert.equal((await stays.exit).code, 0);
  });
});

describe("an exception in a listener surfaces as uncaughtException and wedges nothing", () => {
  const events = [
    ["server", "started"],
    ["server", "stopped"],
    ["server", "connection"],
    ["server", "service-registered"],
    ["server", "service-disconnected"],
    ["server", "call-routed"],
    ["server", "response-routed"],
    ["server", "log"],
    ["user", "connected"],
    ["user", "registered"],
    ["user", "disconnected"],
    ["user", "method-executed"],
    ["user", "log"],
    ["order", "response-received"],
    ["order", "gateway-error"],
  ];
  for (const [thrower, event] of events) {
    test(`${event} of ${thrower}`, async (t) => {
      const { code, lines, stderr } = await start(t, "thrower.mjs", freePath(t), thrower, event).exit;
      assert.equal(code, 0, stderr);
      assert.ok(lines.includes("uncaught mine"), lines.join());
      assert.deepEqual(
        lines.filter((line) => !line.startsWith("uncaught")),
        ["answers 100", "end"],
      );
      assert.ok(
        lines.every((line) => !line.startsWith("uncaught") || line === "uncaught mine"),
        lines.join(),
      );
    });
  }

  test("without a handler for it the process dies of it, as of any", async (t) => {
    const script = `
      const { IPCClient, IPCServer } = require("ipc-bro");
      (async () => {
        const server = new IPCServer({ socketPath: process.argv[1] });
        server.on("service-registered", () => { throw new Error("mine"); });
        await server.start();
        await new IPCClient({ serviceName: "a", gatewayPath: process.argv[1] }).connect();
      })();`;
    const { code, stderr } = await startNode(t, ["-e", script, freePath(t)], { cwd: import.meta.dirname ?? "." }).exit;
    assert.equal(code, 1);
    assert.match(stderr, /Error: mine/);
  });
});

describe("deaths of others", () => {
  test("kill -9 of a callee: its callers are told at once, and of the next one it is called again", async (t) => {
    const server = await startGateway(t);
    const order = await connect(t, server, "order", {}, { timeout: 600_000 });
    for (let round = 0; round < 3; round++) {
      const echo = start(t, "echo.mjs", pathOf(server));
      await echo.printed("ready");
      assert.equal(await order.call("echo", "pid", null), echo.child.pid);
      const calls = Array.from({ length: 10 }, () => codeOf(order.call("echo", "never", null)));
      await echo.printed("working");
      echo.child.kill("SIGKILL");
      assert.deepEqual(new Set(await Promise.all(calls)), new Set(["CONNECTION_LOST"]));
      await until(() => !server.isServiceConnected("echo"));
      assert.equal(await codeOf(order.call("echo", "pid", null)), "SERVICE_NOT_FOUND");
    }
  });

  test("kill -9 of the gateway: calls fail, clients come back to the next one by themselves", async (t) => {
    const path = freePath(t);
    let gateway = start(t, "gateway.mjs", path);
    await gateway.printed("ready");
    const user = await connect(
      t,
      path,
      "user",
      { echo: (n) => n, never: () => new Promise(() => {}) },
      { reconnectDelay: 20 },
    );
    const order = await connect(t, path, "order", {}, { reconnectDelay: 20, timeout: 600_000 });
    for (let round = 0; round < 3; round++) {
      const call = codeOf(order.call("user", "never", null));
      const lost = [next(order, "disconnected"), next(user, "disconnected")];
      gateway.child.kill("SIGKILL");
      assert.equal(await call, "CONNECTION_LOST");
      await Promise.all(lost);
      assert.equal(await codeOf(order.call("user", "echo", 1)), "NOT_CONNECTED");
      gateway = start(t, "gateway.mjs", path);
      await gateway.printed("ready");
      await until(() => order.isConnected() && user.isConnected());
      assert.equal(await order.call("user", "echo", round), round);
    }
  });

  test("methods registered while disconnected are there after reconnecting", async (t) => {
    const server = await startGateway(t);
    const user = await connect(t, server, "user", { old: () => 1 }, { reconnectDelay: 20 });
    const lost = next(user, "disconnected");
    await server.stop();
    await lost;
    user.registerMethod("new", () => 2);
    user.unregisterMethod("old");
    await server.start();
    await until(() => user.isConnected());
    const order = await connect(t, server, "order");
    assert.equal(await order.call("user", "new", null), 2);
    assert.equal(await codeOf(order.call("user", "old", null)), "METHOD_NOT_FOUND");
    assert.deepEqual(server.getService("user").methods, ["new"]);
  });

  test("a service in its own process ends on SIGTERM and leaves no name behind", async (t) => {
    const server = await startGateway(t);
    const echo = start(t, "echo.mjs", pathOf(server));
    await echo.printed("ready");
    echo.child.kill("SIGTERM");
    const { code, signal, stderr } = await echo.exit;
    assert.deepEqual({ code, signal, stderr }, { code: 0, signal: null, stderr: "" });
    await until(() => !server.isServiceConnected("echo"));
  });

  test("a gateway in its own process ends on SIGTERM, and removes its socket", async (t) => {
    const path = freePath(t);
    const gateway = start(t, "gateway.mjs", path);
    await gateway.printed("ready");
    const client = await connect(t, path, "order", {}, { autoReconnect: false });
    const lost = next(client, "disconnected");
    gateway.child.kill("SIGTERM");
    assert.equal((await gateway.exit).code, 0);
    await lost;
    assert.equal(existsSync(path), false);
  });
});

describe("other kinds of processes", () => {
  test("child_process.fork", async (t) => {
    const server = await startGateway(t);
    const parent = await connect(t, server, "parent", { echo: (value) => value });
    const child = fork(program("forked.mjs"), [pathOf(server)]);
    atEnd(t, () => child.kill("SIGKILL"));
    const exit = next(child, "exit");
    const [{ answer }] = await next(child, "message");
    assert.equal(answer, child.pid);
    assert.equal(await parent.call(`child-${child.pid}`, "ping", null), "from the child");
    child.send("leave");
    assert.deepEqual(await exit, [0, null]);
  });

  test("cluster", async (t) => {
    const { code, lines, stderr } = await start(t, "cluster.mjs", freePath(t)).exit;
    assert.deepEqual({ code, lines, stderr }, { code: 0, lines: ["[3,4,5,6]", "end"], stderr: "" });
  });

  test("a CommonJS program with nothing but node -e", async (t) => {
    const script = `const { IPCClient } = require("ipc-bro");
      const client = new IPCClient({ serviceName: "e", gatewayPath: process.argv[1] });
      client.connect().then(() => client.call("echo", "echo", [1])).then((v) => { console.log(v); return client.disconnect(); });`;
    const server = await startGateway(t);
    await connect(t, server, "echo", { echo: (value) => value });
    const { code, stdout } = await startNode(t, ["-e", script, pathOf(server)], { cwd: import.meta.dirname ?? "." })
      .exit;
    assert.deepEqual([code, stdout], [0, "[ 1 ]"]);
  });
});

describe("one process", () => {
  test("may hold many gateways and many clients", async (t) => {
    const servers = await Promise.all(Array.from({ length: 5 }, () => startGateway(t)));
    const pairs = await Promise.all(
      servers.map(async (server, n) => {
        await connect(t, server, "user", { where: () => n });
        return await connect(t, server, "order");
      }),
    );
    assert.deepEqual(await Promise.all(pairs.map((order) => order.call("user", "where", null))), [0, 1, 2, 3, 4]);
  });

  test("has no descriptor left when clients and gateways are gone", async (t) => {
    const count = () => readdirSync("/proc/self/fd").length;
    const round = async () => {
      const server = await startGateway(t);
      const clients = await Promise.all(
        Array.from({ length: 10 }, (_, n) => connect(t, server, `c${n}`, {}, { poolSize: 2 })),
      );
      await Promise.all(clients.map((client) => client.disconnect()));
      await server.stop();
    };
    await round();
    const before = count();
    for (let n = 0; n < 5; n++) await round();
    await until(() => count() <= before);
  });

  test("a client that is dropped without disconnect() goes on working", async (t) => {
    const server = await startGateway(t);
    const path = pathOf(server);
    await (async () => {
      const client = new IPCClient({ serviceName: "forgotten", gatewayPath: path });
      client.registerMethod("leave", () => void setImmediate(() => client.disconnect()));
      client.registerMethod("echo", (value) => value);
      await client.connect();
    })();
    const order = await connect(t, server, "order");
    for (let n = 0; n < 20; n++) {
      globalThis.gc?.();
      assert.equal(await order.call("forgotten", "echo", n), n);
      await sleep(1);
    }
    await order.call("forgotten", "leave", null);
    await until(() => !server.isServiceConnected("forgotten"));
  });

  test("a busy event loop only delays: nothing is lost", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { echo: (n) => n });
    const order = await connect(t, server, "order");
    const calls = Array.from({ length: 200 }, (_, n) => order.call("user", "echo", n));
    const until = Date.now() + 300;
    while (Date.now() < until);
    assert.equal((await Promise.all(calls)).length, 200);
  });

  test("calls made in microtasks, timers and exit handlers' neighbourhood all go out", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { echo: (n) => n });
    const order = await connect(t, server, "order");
    const call = (n) => order.call("user", "echo", n);
    const ways = [
      (go) => go(),
      queueMicrotask,
      process.nextTick,
      setImmediate,
      (go) => setTimeout(go, 0),
      (go) => setTimeout(go, 3),
      (go) => Promise.resolve().then(go),
      (go) => setImmediate(() => queueMicrotask(go)),
    ];
    const results = ways.map((way, n) => new Promise((resolve) => way(() => resolve(call(n)))));
    assert.deepEqual(
      await Promise.all(results),
      ways.map((_, n) => n),
    );
  });

  test("events keep coming after thousands of connects", async (t) => {
    const server = await startGateway(t);
    const registered = collect(server, "service-registered");
    for (let n = 0; n < 300; n++) {
      const client = new IPCClient({ serviceName: `c${n}`, gatewayPath: pathOf(server) });
      await client.connect();
      await client.disconnect();
    }
    await until(() => registered.length === 300);
  });
});
