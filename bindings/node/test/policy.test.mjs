// Policies of an embedded gateway. All processes are of one user: it may do everything, or what the policy says.
import assert from "node:assert/strict";
import { rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { IPCServer } from "ipc-bro";
import { atEnd, codeOf, connect, folder, freePath, pathOf, rejection, startGateway, until } from "./support/ipc.mjs";

const uid = process.getuid();
const ruled = (rights) => `trust_gateway_user = false\n[[rules]]\nusers = [${uid}]\n${rights}\n`;

describe("without a policy", () => {
  test("this user may do everything, and instances tell who they are", async (t) => {
    const server = await startGateway(t);
    await connect(t, server, "user", { get: () => 1 }, { poolSize: 2, metadata: { uid: 99999, pid: 1 } });
    const { instances, socket } = server.getService("user");
    assert.equal(instances.length, 2);
    for (const { pid, uid: own, gid, encoding } of instances) {
      assert.deepEqual([pid, own, gid, encoding], [process.pid, uid, process.getgid(), "json"]);
    }
    assert.deepEqual([socket.uid, socket.gid], [uid, process.getgid()]);
    assert.equal(server.reloadPolicy(), 0);
  });

  test("the mode of the socket is an option", async (t) => {
    const server = await startGateway(t, { mode: 0o666 });
    assert.equal(statSync(pathOf(server)).mode & 0o777, 0o666);
  });
});

for (const protocol of ["auto", 1]) {
  test(`what is not allowed fails with PERMISSION_DENIED (protocol ${protocol})`, async (t) => {
    const rights = 'own = ["user", "order"]\ncall = [{ service = "user", methods = ["get"] }]';
    const server = await startGateway(t, { policy: { toml: ruled(rights) } });
    await connect(t, server, "user", { get: () => 1, remove: () => 2 }, { protocol });
    const order = await connect(t, server, "order", {}, { protocol });
    assert.equal(await order.call("user", "get", {}), 1);
    assert.equal(await codeOf(order.call("user", "remove", {})), "PERMISSION_DENIED");
    assert.equal(await codeOf(order.call("nobody", "get", {})), "PERMISSION_DENIED");
    assert.equal(await codeOf(order.call("bro.gateway", "events", {})), "PERMISSION_DENIED");
    assert.equal(await codeOf(order.call("bro.gateway", "reloadPolicy", {})), "PERMISSION_DENIED");
    assert.equal(await codeOf(connect(t, server, "squatter", {}, { protocol })), "PERMISSION_DENIED");
    assert.equal(server.stats().counters.permissionDenied, 5);
  });
}

test("a new policy closes what it does not allow, and a wrong one changes nothing", async (t) => {
  const file = join(folder(t), "policy.toml");
  const write = (rights) => writeFileSync(file, ruled(rights), { mode: 0o600 });
  write('own = ["user", "order"]\ncall = ["user"]\nadminister = true');
  const server = await startGateway(t, { policy: { file } });
  const user = await connect(t, server, "user", { get: () => 1 }, { autoReconnect: false });
  const order = await connect(t, server, "order");
  assert.equal(await order.call("user", "get", {}), 1);
  write('own = ["ord*r"]');
  const wrong = await rejection((async () => server.reloadPolicy())());
  assert.deepEqual(
    [wrong.code, /policy\.toml: line 4, column 8: .*at the end only/.test(wrong.message)],
    ["INVALID_ARGUMENT", true],
  );
  assert.equal(await codeOf(order.call("bro.gateway", "reloadPolicy", {})), "EXECUTION_FAILED");
  assert.equal(await order.call("user", "get", {}), 1);
  write('own = ["order"]\nadminister = true');
  assert.deepEqual(await order.call("bro.gateway", "reloadPolicy", {}), { rules: 1 });
  await until(() => !user.isConnected());
  assert.deepEqual(server.getConnectedServices(), ["order"]);
  assert.equal(await codeOf(order.call("user", "get", {})), "PERMISSION_DENIED");
  rmSync(file);
  assert.throws(() => server.reloadPolicy(), { code: "INVALID_ARGUMENT" });
});

test("a server does not start with what is no policy, and one that does not run has none", async (t) => {
  for (const policy of [{ toml: "[[rules]]" }, { file: "/no/such/policy.toml" }]) {
    const server = new IPCServer({ socketPath: freePath(t), policy });
    atEnd(t, () => server.stop());
    assert.equal(await codeOf(server.start()), "INVALID_ARGUMENT");
    assert.throws(() => server.reloadPolicy(), { code: "NOT_CONNECTED" });
  }
});
