// A process of the bench: `callee`, `caller` or `carrier`. Told what to do through the channel to `run.mjs`, and ends with it.
import { PAYLOADS } from "./payload.mjs";

const [role, moduleName, place, options] = process.argv.slice(2).map((text, at) => (at < 2 ? text : JSON.parse(text)));
let stop = () => {};

process.on("disconnect", () => process.exit(1));
process.on("unhandledRejection", fail);
process.on("uncaughtException", fail);

try {
  await start();
} catch (error) {
  fail(error);
}

async function start() {
  const system = await import(`./systems/${moduleName}.mjs`);
  if (role === "caller") {
    const connection = await system.connect(place, { options });
    stop = connection.close;
    process.on("message", ({ phase }) => {
      if (phase !== undefined) measure(connection, phase).then((measured) => process.send({ measured }), fail);
    });
  } else {
    stop = await (role === "callee" ? system.serve(place, { options }) : system.carry(place));
  }
  process.on("message", async (message) => {
    if (message.stop !== true) return;
    await stop();
    process.exit(0);
  });
  process.send({ ready: true });
}

/** Keeps `inFlight` calls going until the time or the calls are used up. Latencies are in microseconds, rates in calls per second. */
async function measure(connection, { inFlight, seconds, calls: callsMax, payload }) {
  const { make, check } = PAYLOADS[payload];
  const echo = connection[payload];
  // Of many calls in flight only the rate is of interest.
  const latencies = inFlight === 1 ? [] : undefined;
  let started = 0;
  let isOver = false;
  const timer = setTimeout(() => {
    isOver = true;
  }, seconds * 1000);
  const keepCalling = async () => {
    while (!isOver && started < callsMax) {
      started++;
      const sent = make();
      const from = latencies === undefined ? 0 : performance.now();
      const received = await echo(sent);
      latencies?.push((performance.now() - from) * 1000);
      check(sent, received);
    }
  };
  const from = performance.now();
  await Promise.all(Array.from({ length: inFlight }, keepCalling));
  const elapsed = performance.now() - from;
  clearTimeout(timer);
  latencies?.sort((one, other) => one - other);
  return {
    calls: started,
    perSecond: (started / elapsed) * 1000,
    ...(latencies && { p50: percentile(latencies, 0.5), p99: percentile(latencies, 0.99) }),
  };
}

function percentile(sorted, part) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
}

function fail(error) {
  const failure = error?.stack ?? String(error);
  if (!process.connected) process.exit(1);
  process.send({ failure: `${role} of ${moduleName}: ${failure}` }, () => process.exit(1));
}
