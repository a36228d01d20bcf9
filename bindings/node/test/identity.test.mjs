// The package as npm installs it: one set of classes for import and require, two copies side by side, its files.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import * as imported from "ipc-bro";
import { startNode } from "./support/children.mjs";
import {
  codeOf,
  connect,
  freePath,
  pathOf,
  rejection,
  startGateway,
  folder as temporaryFolder,
  until,
} from "./support/ipc.mjs";

const require = createRequire(import.meta.url);
const required = require("ipc-bro");
const folder = dirname(require.resolve("ipc-bro/package.json"));
const manifest = require("ipc-bro/package.json");
/** The second copy: another file, so other classes and another instance of the addon's loader. */
const second = createRequire(join(folder, "../../second/package.json"))("ipc-bro");

describe("import and require", () => {
  test("give the same classes", async () => {
    for (const name of ["IPCClient", "IPCServer", "IPCUtils", "IPCError", "IPCErrorCode"]) {
      assert.ok(imported[name] !== undefined, name);
      assert.equal(imported[name], required[name], name);
    }
    assert.deepEqual(Object.keys(imported).sort(), Object.keys(required).sort());
    assert.equal((await import("ipc-bro")).IPCClient, imported.IPCClient);
  });

  test("an error of one is instanceof the other's", async (t) => {
    const server = await startGateway(t);
    const client = await connect(t, server, "order");
    const error = await rejection(client.call("nobody", "x", {}));
    assert.ok(error instanceof required.IPCError && error instanceof imported.IPCError);
    assert.ok(client instanceof required.IPCClient && server instanceof required.IPCServer);
  });

  test("nothing but the entry and package.json can be reached", () => {
    assert.throws(() => require("ipc-bro/dist/client.js"), { code: "ERR_PACKAGE_PATH_NOT_EXPORTED" });
  });
});

describe("two copies of the package in one process", () => {
  test("are different classes that work side by side", async (t) => {
    assert.notEqual(second.IPCClient, imported.IPCClient);
    const server = await startGateway(t);
    await connect(t, server, "first", { twice: (n) => 2 * n });
    const other = new second.IPCClient({ serviceName: "second", gatewayPath: pathOf(server) });
    other.registerMethod("thrice", (n) => 3 * n);
    await other.connect();
    const order = await connect(t, server, "order");
    assert.equal(await order.call("second", "thrice", 7), 21);
    assert.equal(await other.call("first", "twice", 21), 42);
    const error = await rejection(other.call("nobody", "x", {}));
    assert.ok(error instanceof second.IPCError);
    assert.equal(error instanceof imported.IPCError, false);
    await other.disconnect();
    await until(() => !server.isServiceConnected("second"));
  });

  test("a gateway of one serves clients of the other", async (t) => {
    const server = new second.IPCServer({ socketPath: freePath(t) });
    await server.start();
    const client = await connect(t, server, "order", { echo: (value) => value });
    assert.deepEqual(await client.call("order", "echo", [1]), [1]);
    assert.equal(
      await codeOf(new imported.IPCServer({ socketPath: pathOf(server) }).start()).then((code) => typeof code),
      "string",
    );
    await client.disconnect();
    await server.stop();
  });
});

describe("the package", () => {
  test("has no dependencies and no install scripts", () => {
    assert.equal(manifest.name, "ipc-bro");
    assert.deepEqual(Object.keys(manifest.dependencies ?? {}), []);
    for (const script of ["preinstall", "install", "postinstall"])
      assert.equal(manifest.scripts?.[script], undefined, script);
    assert.match(manifest.engines.node, />=\s*18/);
    assert.equal(manifest.license, "MIT");
  });

  test("has types, source maps and their sources, and a README", () => {
    const dist = readdirSync(join(folder, "dist"));
    for (const file of ["index.js", "index.mjs", "index.d.ts", "index.d.mts", "index.js.map", "client.d.ts"]) {
      assert.ok(dist.includes(file), file);
    }
    const map = JSON.parse(readFileSync(join(folder, "dist/client.js.map"), "utf8"));
    for (const source of map.sources) assert.ok(existsSync(join(folder, "dist", source)), source);
    assert.ok(existsSync(join(folder, "README.md")));
  });

  test("every documented name is exported", () => {
    for (const name of ["IPCServer", "IPCClient", "IPCUtils", "IPCError", "IPCErrorCode"]) {
      assert.ok(["function", "object"].includes(typeof imported[name]), name);
    }
    const functions = [
      "serialize",
      "deserialize",
      "readMessageLength",
      "hasCompleteMessage",
      "splitMessages",
      "generateId",
      "generateRootId",
      "createContext",
      "extendContext",
      "validateContext",
      "isDeadlineExceeded",
      "getRemainingTime",
      "calculateDeadline",
      "createCallMessage",
      "createSuccessResponse",
      "createErrorResponse",
      "validateMessage",
      "isMaxDepthExceeded",
      "formatMessageForLog",
      "formatContext",
      "calculateBackoff",
      "sleep",
      "createTimeoutPromise",
    ];
    for (const name of functions) assert.equal(typeof imported.IPCUtils[name], "function", name);
  });

  test("brings the bro command", async () => {
    const bin = join(folder, manifest.bin.bro);
    assert.ok(existsSync(bin));
    const output = execFileSync(process.execPath, [bin, "--version"], { encoding: "utf8" });
    assert.match(output, /\d+\.\d+\.\d+/);
    assert.ok(
      existsSync(join(folder, "../.bin/bro")) || existsSync(join(folder, "../../second/node_modules/.bin/bro")),
    );
  });

  test("the bro command lists the services of a gateway of this package", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "order");
    const bro = startNode(t, [join(folder, manifest.bin.bro), "ls", "--socket", pathOf(server)]);
    const { code, stdout, stderr } = await bro.exit;
    assert.equal(code, 0, stderr);
    assert.match(stdout, /order/);
  });

  test("says what to do where there is no binary", async (t) => {
    const script = `import("ipc-bro").then(({ IPCClient }) => new IPCClient({ serviceName: "a" }))
      .catch((error) => console.log(error.name, error.message));`;
    const env = { ...process.env, IPC_BRO_ADDON: "/nonexistent/ipc-bro.node" };
    const { stdout } = await startNode(t, ["-e", script], { cwd: import.meta.dirname, env }).exit;
    assert.match(stdout, /cannot be loaded/);
    assert.match(stdout, /ipc-bro-build/);
  });

  test("can be imported, and IPCUtils used, where there is no binary", async (t) => {
    const script = `import("ipc-bro").then(({ IPCUtils }) => console.log(IPCUtils.generateId("ok").slice(0, 3)));`;
    const env = { ...process.env, IPC_BRO_ADDON: "/nonexistent/ipc-bro.node" };
    const { stdout } = await startNode(t, ["-e", script], { cwd: import.meta.dirname, env }).exit;
    assert.equal(stdout, "ok-");
  });

  test("works from a path with spaces and letters of all kinds, and after its source was removed", async (t) => {
    const elsewhere = join(temporaryFolder(t), "ž paths/with %20 # and 語");
    cpSync(folder, elsewhere, { recursive: true });
    const { IPCClient, IPCError } = await import(pathToFileURL(join(elsewhere, "dist/index.mjs")).href);
    const server = await startGateway(t);
    const client = new IPCClient({ serviceName: "far", gatewayPath: pathOf(server) });
    await client.connect();
    rmSync(elsewhere, { recursive: true });
    assert.ok((await rejection(client.call("nobody", "x", {}))) instanceof IPCError);
    await client.disconnect();
  });
});
