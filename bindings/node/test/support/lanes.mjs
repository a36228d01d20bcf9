// Gateways that give lanes, and what they say of them.
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { createConnection } from "node:net";
import { dirname, join } from "node:path";
import { start } from "./children.mjs";
import { atEnd, connect, freePath, until } from "./ipc.mjs";

/** The `bro` command of the package. */
export function broCommand() {
  const prebuilt = join(dirname(createRequire(import.meta.url).resolve("ipc-bro/package.json")), "prebuilt");
  return join(prebuilt, readdirSync(prebuilt)[0], "bro");
}

/** A gateway of the command, in a process of its own; resolves when it listens. */
export async function startBroGateway(t, path, lanes = "always") {
  const child = spawn(broCommand(), ["gateway", "--socket", path, "--lanes", lanes], { stdio: "ignore" });
  const exit = new Promise((resolve) => child.on("exit", resolve));
  const stop = async (signal = "SIGKILL") => {
    child.kill(signal);
    await exit;
  };
  atEnd(t, () => stop());
  await until(() => accepts(path));
  return { path, stop };
}

/** Whether somebody listens there. The file alone is there a moment before. */
export function accepts(path) {
  return new Promise((resolve) => {
    const socket = createConnection(path, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}

/** What the gateway counts, and how many lanes it knows, as a client asks it. */
export async function statusOf(client) {
  const { counters, lanes } = await client.call("bro.gateway", "status");
  return { ...counters, lanes };
}

/** A gateway, a service "user" in a process of its own, and a client "order" here, with a lane between them that is in use. */
export async function laned(t, { order: orderOptions = {}, user: userOptions = {}, methods = {} } = {}) {
  const gateway = await startBroGateway(t, freePath(t));
  const user = start(t, "laned.mjs", gateway.path, "user", JSON.stringify(userOptions));
  await user.printed("ready");
  const options = { heartbeatInterval: 500, reconnectDelay: 20, ...orderOptions };
  const order = await connect(t, gateway.path, "order", methods, options);
  await settle(order, "user");
  return { gateway, user, order };
}

/** Calls until calls do not pass the gateway any more. */
export async function settle(client, service) {
  await until(async () => {
    const before = await statusOf(client);
    for (let n = 0; n < 20; n++) await client.call(service, "echo", n);
    const { callsRouted, lanes } = await statusOf(client);
    return lanes > 0 && callsRouted === before.callsRouted;
  });
}
