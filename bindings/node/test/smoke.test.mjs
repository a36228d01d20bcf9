// The shortest proof that the package works: a gateway and two services in one process, both encodings.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { IPCClient, IPCError, IPCServer } from "ipc-bro";

for (const serializer of ["json", "msgpack"]) {
  test(`a nested call goes there and back (${serializer})`, async () => {
    const folder = mkdtempSync(join(tmpdir(), "bro-"));
    const gatewayPath = join(folder, "gateway.sock");
    const server = new IPCServer({ socketPath: gatewayPath });
    await server.start();
    const order = new IPCClient({ serviceName: "order", gatewayPath, serializer });
    const user = new IPCClient({ serviceName: "user", gatewayPath });
    user.registerMethod("chain", async (params, context) => ({
      ...params,
      chain: context.chain,
      depth: context.depth,
    }));
    user.registerMethod("fail", () => {
      throw Object.assign(new Error("no such user"), { code: "NO_USER" });
    });
    order.registerMethod("nested", async (params) => order.call("user", "chain", params));
    await Promise.all([order.connect(), user.connect()]);

    const direct = await order.call("user", "chain", {
      text: "grüße",
      large: "x".repeat(100_000),
      bytes: Buffer.from([1, 2]),
    });
    assert.deepEqual(direct.chain, ["order", "user"]);
    assert.equal(direct.large.length, 100_000);
    assert.ok(Buffer.isBuffer(direct.bytes) && direct.bytes.equals(Buffer.from([1, 2])));
    const nested = await user.call("order", "nested", { deep: true });
    assert.deepEqual(nested, { deep: true, chain: ["user", "order", "user"], depth: 3 });
    await assert.rejects(order.call("user", "fail"), (error) => {
      assert.ok(error instanceof IPCError);
      assert.equal(error.code, "NO_USER");
      assert.equal(error.message, "no such user");
      assert.match(error.details.remoteStack, /smoke\.test/);
      return true;
    });
    await assert.rejects(order.call("nobody", "x"), { code: "SERVICE_NOT_FOUND" });
    assert.equal(server.getStatus().connectedServices, 2);
    await order.disconnect();
    await user.disconnect();
    await server.stop();
    rmSync(folder, { recursive: true });
  });
}
