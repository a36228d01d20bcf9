// Runs every compiled example and checks what it prints: `node run-all.mjs`, after `tsc`. Exits with 1 if one does not do as it says.
import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { IPCClient, IPCServer } from "ipc-bro";

const here = dirname(fileURLToPath(import.meta.url));
/** A hang ends here; no measure of speed. */
const WATCHDOG_MS = 60_000;

const folder = mkdtempSync(join(tmpdir(), "bro-examples-"));
const socket = join(folder, "gateway.sock");

/** Starts an example; `until` resolves when it has printed something like the pattern. */
function start(name, env = {}) {
  const child = spawn(process.execPath, [join(here, "out", `${name}.js`)], {
    env: { ...process.env, BRO_SOCKET: socket, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const watchdog = setTimeout(() => child.kill("SIGKILL"), WATCHDOG_MS);
  let output = "";
  const waiting = new Set();
  const look = () => {
    for (const check of waiting) check();
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk) => {
      output += chunk;
      look();
    });
  }
  const ended = new Promise((resolve) => {
    child.on("close", (code) => {
      clearTimeout(watchdog);
      for (const check of waiting) check(true);
      resolve(code);
    });
  });
  const until = (pattern) =>
    new Promise((resolve, reject) => {
      const check = (isOver) => {
        const match = pattern.exec(output);
        if (match === null && !isOver) return;
        waiting.delete(check);
        if (match === null) reject(new Error(`${name} never printed ${pattern}:\n${output}`));
        else resolve(match);
      };
      waiting.add(check);
      check();
    });
  const end = async (signal = "SIGTERM") => {
    if (signal !== null) child.kill(signal);
    const code = await ended;
    if (code !== 0) throw new Error(`${name} ended with ${code}:\n${output}`);
    return output;
  };
  return { until, end, finish: () => end(null) };
}

async function withClient(work) {
  const client = new IPCClient({ serviceName: "visitor", gatewayPath: socket });
  client.registerMethod("hello", () => "hello");
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.disconnect();
  }
}

async function withGateway(work) {
  const server = new IPCServer({ socketPath: socket });
  await server.start();
  try {
    return await work(server);
  } finally {
    await server.stop();
  }
}

/** A StatsD server; `until` resolves when a packet like the pattern has come. */
async function withStatsD(work) {
  const udp = createSocket("udp4");
  await new Promise((resolve) => udp.bind(0, "127.0.0.1", resolve));
  const packets = [];
  udp.on("message", (packet) => packets.push(packet.toString()));
  const until = async (pattern) => {
    while (!packets.some((packet) => pattern.test(packet))) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  try {
    return await work({ STATSD_PORT: String(udp.address().port) }, until);
  } finally {
    udp.close();
  }
}

function expect(condition, what) {
  if (!condition) throw new Error(what);
}

const examples = {
  async "gateway-basic"(name) {
    const gateway = start(name);
    await gateway.until(/^ready$/m);
    await withClient((client) => client.call("visitor", "hello", {}));
    await gateway.until(/^\+ visitor offers hello$/m);
    await gateway.until(/^ {2}visitor calls visitor\.hello \(depth 2\)$/m);
    await gateway.until(/^- visitor$/m);
    expect(/stopped/.test(await gateway.end()), "it stops in order");
  },
  async "gateway-metrics"(name) {
    await withStatsD(async (env, until) => {
      const gateway = start(name, env);
      await gateway.until(/^ready$/m);
      await withClient(async (client) => {
        await client.call("visitor", "hello", {});
        await client.call("nobody", "hello", {}).catch(() => {});
        // The total is that of the moment when it is asked for: the visitor stays until then.
        await until(/^gateway\.services\.connected:1\|c$/);
        await until(/^gateway\.services\.total:1\|g$/);
      });
      await until(/^gateway\.calls\.routed:1\|c\|#from:visitor,to:visitor$/);
      await until(/^gateway\.responses\.success:1\|c$/);
      await until(/^gateway\.services\.disconnected:1\|c$/);
      await gateway.end();
    });
  },
  async "gateway-health"(name) {
    const gateway = start(name, { PORT: "0" });
    const [, url] = await gateway.until(/health at (\S+)\/health/);
    await withClient(async () => {
      const health = await (await fetch(`${url}/health`)).json();
      expect(health.healthy === true && health.services.join() === "visitor", JSON.stringify(health));
      const [service] = await (await fetch(`${url}/services`)).json();
      expect(service.name === "visitor" && service.methods.join() === "hello", JSON.stringify(service));
      expect((await fetch(`${url}/other`)).status === 404, "other pages are not there");
    });
    await gateway.end();
  },
  async "gateway-restarting"(name) {
    // Another program has the socket at first.
    const other = createServer((connection) => connection.on("error", () => {}));
    await new Promise((resolve) => other.listen(socket, resolve));
    const gateway = start(name, { FIRST_DELAY_MS: "200" });
    await gateway.until(/did not start/);
    await gateway.until(/attempt 1 in 200 ms/);
    await new Promise((resolve) => other.close(resolve));
    await gateway.until(/^ready$/m);
    await withClient((client) => client.call("visitor", "hello", {}));
    await gateway.end();
  },
  async "service-simple"(name) {
    await withGateway(async () => {
      const service = start(name);
      await service.until(/^ready$/m);
      const user = await withClient((client) => client.call("user-service", "getUserById", { userId: "123" }));
      expect(user.name === "Ada Lovelace", JSON.stringify(user));
      await service.until(/^visitor asks for user 123$/m);
      await service.end();
    });
  },
  async "service-nested-calls"(name) {
    await withGateway(async () => {
      const [users, orders] = [start("service-simple"), start(name)];
      await Promise.all([users.until(/^ready$/m), orders.until(/^ready$/m)]);
      const details = await withClient((client) => client.call("order-service", "getOrderDetails", { orderId: "7" }));
      expect(details.user.name === "Ada Lovelace" && details.stock.tea === 3, JSON.stringify(details));
      await orders.until(/^depth 2: order 7$/m);
      await orders.until(/^depth 3: stock, for visitor -> order-service -> inventory-service$/m);
      await users.until(/^order-service asks for user 123$/m);
      await orders.end();
      await users.end();
    });
  },
  async "service-errors"(name) {
    await withGateway(async () => {
      const payments = start(name);
      await payments.until(/^ready$/m);
      await withClient(async (client) => {
        const codeOf = (params) => client.call("payment-service", "processPayment", params).catch(({ code }) => code);
        const attempt = (params) => client.call("payment-service", "tryPayment", params);
        expect((await codeOf({ userId: "123", amount: -1 })) === "INVALID_AMOUNT", "a code of its own arrives");
        expect((await codeOf({ userId: "123", amount: 5 })) === "SERVICE_NOT_FOUND", "there is no user-service yet");
        expect((await attempt({ userId: "123", amount: 5 })).retryable === true, "that may change");
        const users = start("service-simple");
        await users.until(/^ready$/m);
        expect((await codeOf({ userId: "999", amount: 5 })) === "USER_NOT_FOUND", "there is no such user");
        expect((await attempt({ userId: "999", amount: 5 })).retryable === false, "that will not change");
        expect((await attempt({ userId: "123", amount: 5 })).success === true, "it works in the end");
        await payments.until(/^charging Ada Lovelace: 5$/m);
        await users.end();
      });
      await payments.end();
    });
  },
  async "service-metrics"(name) {
    await withGateway(() =>
      withStatsD(async (env, until) => {
        const analytics = start(name, env);
        await analytics.until(/^ready$/m);
        await withClient(async (client) => {
          await client.call("analytics-service", "trackEvent", { event: "login" });
          await client.call("analytics-service", "trackEvent", { event: "visit", userId: "123" }).catch(() => {});
        });
        await until(/^ipc\.methods\.executed:1\|c\|#method:trackEvent,success:true$/);
        await until(/^ipc\.methods\.executed:1\|c\|#method:trackEvent,success:false$/);
        await until(/^ipc\.calls\.ended:1\|c\|#success:false$/);
        await until(/^ipc\.methods\.trackEvent\.duration:\d+\|ms$/);
        await analytics.end();
      }),
    );
  },
  async "service-retrying"(name) {
    await withGateway(async () => {
      const output = await start(name).finish();
      expect(output.match(/attempt \d failed: not this time/g)?.length === 2, output);
      expect(/\{ id: '123', calls: 3 \}/.test(output), output);
      expect(/not tried again: METHOD_NOT_FOUND/.test(output), output);
    });
  },
  async "service-cancellation"(name) {
    await withGateway(async (server) => {
      const output = await start(name).finish();
      expect(/^2 pages$/m.test(output), output);
      expect(/^given up: CANCELLED$/m.test(output) && /^late: TIMEOUT$/m.test(output), output);
      // At the deadline the call that it waits for can end first: then it has answered, and nothing is withdrawn any more.
      expect(/^report withdrawn: CANCELLED$/m.test(output), output);
      expect(output.match(/^rendering stops: (CANCELLED|TIMEOUT)$/gm)?.length === 2, output);
      expect(server.stats().inFlight === 0, "nothing is left");
    });
  },
  async "service-any-order"(name) {
    await withGateway(async () => {
      const output = await start(name).finish();
      const lines = ["1 call waits", "{ item: 'lamp', cents: 4900 }", "SERVICE_NOT_FOUND"];
      expect(output.trim() === lines.join("\n"), output);
    });
  },
  async "service-notifications"(name) {
    await withGateway(async (server) => {
      const output = await start(name).finish();
      const lines = [
        "2 sent",
        "ada: looked around (web -> audit-service)",
        "ada: order placed (web -> order-service -> audit-service)",
        "{ id: 7 }",
      ];
      expect(output.trim().split("\n").sort().join("\n") === lines.join("\n"), output);
      expect(server.stats().counters.notificationsDropped === 1, "that to nobody was dropped");
    });
  },
  async "service-graceful-shutdown"(name) {
    await withGateway(() =>
      withClient(async (client) => {
        const service = start(name);
        await service.until(/^ready$/m);
        const calls = [300, 400].map((rows) => client.call("import-service", "import", { rows }));
        await service.until(/^importing 400 rows$/m);
        const ended = service.end();
        await service.until(/^leaving, with 2 in work$/m);
        const results = await Promise.all(calls);
        expect(results.map(({ rows }) => rows).join() === "300,400", JSON.stringify(results));
        expect(/imported 400 rows\nleft in order/.test(await ended), "it finishes first");
      }),
    );
  },
  async "best-practices"(name) {
    const output = await start(name).finish();
    const lines = [
      "3. CONNECTION_FAILED: is the gateway running?",
      "2. getUser, sleep",
      "1. DUPLICATE_SERVICE",
      "6. quiet",
      "5. ADA",
      "7. too slow for 50 ms",
      "4. left in order",
    ];
    expect(output === `${lines.join("\n")}\n`, output);
  },
  async "who-may-what"(name) {
    const output = await start(name).finish();
    const lines = [
      "web asks for a quote: 15",
      "web refunds: PERMISSION_DENIED: web may not refund",
      "support refunds: o7 refunded for support",
      /support closes: PERMISSION_DENIED: .*/.source,
      /admin connects: PERMISSION_DENIED: .*/.source,
      "support is this process: true",
    ];
    expect(new RegExp(`^${lines.join("\n")}\n$`).test(output), output);
  },
  async beyond(name) {
    const output = await start(name).finish();
    const lines = ["binary: 2 bytes", "CANCELLED", "event: make true", "thumbnails x2, web x1"];
    expect(output === `${lines.join("\n")}\n`, output);
  },
};

for (const [name, run] of Object.entries(examples)) {
  try {
    await run(name);
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`FAILED ${name}: ${error.message}`);
    process.exitCode = 1;
  }
}
rmSync(folder, { recursive: true, force: true });
