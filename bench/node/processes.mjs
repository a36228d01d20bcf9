// The processes of one row: started, asked for their processor time, told to measure, and stopped whatever happens.
import { fork, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const peerProgram = fileURLToPath(new URL("peer.mjs", import.meta.url));
/** A process that has not started, or not answered this long after its phase should be over, has failed. */
const PATIENCE_MS = 30_000;
/** How long a process may take to stop by itself. */
const STOP_MS = 3_000;

const living = new Set();
process.on("exit", () => {
  for (const child of living) child.kill("SIGKILL");
});

/** Starts the processes of a row. `programs` has the paths of the native ones, `profile` a folder for profiles of the caller. */
export async function startRow({ module, carrier, hasLane = false, options }, directory, programs, profile) {
  const socket = join(directory, "calls.sock");
  // Where a relay stands in between, the callee listens on a socket of its own.
  const calleeSocket = carrier === "relay" ? join(directory, "callee.sock") : socket;
  const place = { socket, calleeSocket, ports: module === "moleculer" ? await freePorts("caller", "callee") : {} };
  const row = {};
  const peer = async (role, execArgv) => {
    const all = JSON.stringify({ lanes: hasLane, ...options });
    row[role] = fork(peerProgram, [role, module, JSON.stringify(place), all], { execArgv });
    living.add(row[role]);
    await answer(row[role], "ready", PATIENCE_MS);
  };
  try {
    const lanes = hasLane ? "always" : "off";
    const gateway = ["gateway", "--socket", socket, "--stop-with-stdin", "--lanes", lanes];
    if (carrier === "bro") row.carrier = await startNative(programs.bro, gateway, socket);
    if (carrier === "node") await peer("carrier");
    await peer("callee");
    if (carrier === "relay") row.carrier = await startNative(programs.relay, [socket, calleeSocket], socket);
    await peer("caller", profile === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profile}`]);
  } catch (error) {
    await stopRow(row);
    throw error;
  }
  return row;
}

/** Has the caller measure one phase. Gives what it measured, and the processor time of each process per call, in microseconds. */
export async function measurePhase(row, phase) {
  const before = processorTimes(row);
  row.caller.send({ phase });
  const { measured } = await answer(row.caller, "measured", phase.seconds * 1000 + PATIENCE_MS, row.callee);
  const after = processorTimes(row);
  const cpu = {};
  for (const role of Object.keys(before)) cpu[role] = (after[role] - before[role]) / measured.calls;
  return { ...measured, cpu };
}

/** Ends the processes of a row, the caller first. */
export async function stopRow(row) {
  for (const role of ["caller", "callee", "carrier"]) {
    const child = row[role];
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) continue;
    const ended = once(child, "exit");
    if (child.connected) child.send({ stop: true }, () => {});
    else child.stdin?.end();
    await Promise.race([ended, sleep(STOP_MS, undefined, { ref: false })]);
    if (child.exitCode === null && child.signalCode === null) {
      child.kill("SIGKILL");
      await ended;
    }
    living.delete(child);
  }
}

async function startNative(program, args, socket) {
  const child = spawn(program, args, { stdio: ["pipe", "ignore", "ignore"] });
  living.add(child);
  await once(child, "spawn");
  const until = Date.now() + PATIENCE_MS;
  while (!existsSync(socket)) {
    if (child.exitCode !== null || Date.now() > until) throw new Error(`${program} did not start`);
    await sleep(10);
  }
  return child;
}

/** The next message of this kind. Rejects where a process has failed or ended instead. */
function answer(child, kind, patienceMs, ...others) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => settle(reject, new Error(`no answer within ${patienceMs} ms`)), patienceMs);
    const message = (content) => {
      if (content.failure !== undefined) settle(reject, new Error(content.failure));
      else if (kind in content) settle(resolve, content);
    };
    const exit = (code, signal) => settle(reject, new Error(`a process ended with ${signal ?? code}`));
    const all = [child, ...others];
    const settle = (how, value) => {
      clearTimeout(timer);
      for (const each of all) each.off("message", message).off("exit", exit);
      how(value);
    };
    for (const each of all) each.on("message", message).on("exit", exit);
  });
}

/** Microseconds that the threads of each process have run; empty where the system does not tell. */
function processorTimes(row) {
  const times = {};
  for (const [role, { pid }] of Object.entries(row)) {
    try {
      const tasks = `/proc/${pid}/task`;
      let nanoseconds = 0;
      for (const task of readdirSync(tasks)) {
        nanoseconds += Number(readFileSync(join(tasks, task, "schedstat"), "utf8").split(" ")[0]);
      }
      times[role] = nanoseconds / 1000;
    } catch {
      // Only Linux has this.
    }
  }
  return times;
}

/** Ports of the loopback address that nobody listens on. */
async function freePorts(...names) {
  const servers = names.map(() => net.createServer().listen(0, "127.0.0.1"));
  await Promise.all(servers.map((server) => once(server, "listening")));
  const ports = Object.fromEntries(names.map((name, at) => [name, servers[at].address().port]));
  await Promise.all(servers.map((server) => once(server.close(), "close")));
  return ports;
}
