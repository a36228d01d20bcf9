// Measures ipc-bro in Node beside others: `node bench/node/run.mjs`. See README.md beside this file.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { measurePhase, startRow, stopRow } from "./processes.mjs";
import { summarise, table } from "./report.mjs";
import { FULL, phasesOf, QUICK, SYSTEMS } from "./systems.mjs";

const USAGE = `usage: node bench/node/run.mjs [options]
  --quick          short phases, few rounds: to see that everything works
  --rounds N       how often every row is measured (${FULL.rounds}, quick ${QUICK.rounds})
  --only NAME      only this row; may be repeated. Rows: ${SYSTEMS.map(({ name }) => JSON.stringify(name)).join(", ")}
  --payload KIND   order (nested, the default) or flat (one long string): 410 bytes of JSON either way
  --phase NAME     only this phase and its warm up; may be repeated; with --profile
  --json FILE      everything that was measured, as JSON
  --profile DIR    a CPU profile of every caller, as node --cpu-prof writes it`;

const folder = fileURLToPath(new URL(".", import.meta.url));
const checkout = join(folder, "../..");

process.exitCode = await main();

async function main() {
  let options;
  try {
    options = parsed();
  } catch (error) {
    console.error(`${error.message}\n\n${USAGE}`);
    return 2;
  }
  if (options === undefined) return 0;
  install();
  const directory = mkdtempSync(join(os.tmpdir(), "bro-bench-"));
  const interrupted = () => process.exit(130);
  process.on("SIGINT", interrupted).on("SIGTERM", interrupted);
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }));
  const programs = nativePrograms(directory);
  const systems = options.systems.filter(({ name, carrier }) => {
    const isPossible = carrier === undefined || carrier === "node" || programs[carrier] !== undefined;
    if (!isPossible) console.error(`left out: ${name} (there is no ${carrier})`);
    return isPossible;
  });
  const machine = { ...machineFacts(), payload: options.payload, loadBefore: os.loadavg() };
  console.error(`load ${loadText(machine.loadBefore)}, ${options.rounds} rounds of ${systems.length} rows`);

  const rounds = [];
  const failures = [];
  for (let round = 0; round < options.rounds; round++) {
    const measured = {};
    for (const system of systems) {
      process.stderr.write(`\r\x1b[Kround ${round + 1}/${options.rounds}: ${system.name} `);
      const place = join(directory, `${round}-${systems.indexOf(system)}`);
      mkdirSync(place);
      try {
        measured[system.name] = await measureRow(system, place, programs, options);
      } catch (error) {
        failures.push({ round, name: system.name, failure: error.message });
      }
    }
    rounds.push(measured);
  }
  process.stderr.write("\r\x1b[K");
  machine.loadAfter = os.loadavg();

  if (options.profile !== undefined) {
    console.log(JSON.stringify(rounds, null, 2));
  } else {
    const summary = summarise(
      options.systems.map(({ name }) => name),
      rounds,
    );
    console.log(
      `${machine.processor} x ${machine.processors}, Node ${machine.node}, ${versionsText(machine.versions)}`,
    );
    console.log(
      `load before ${loadText(machine.loadBefore)}, after ${loadText(machine.loadAfter)}; payload ${options.payload}, medians of ${rounds.length} rounds\n`,
    );
    console.log(table(summary));
    if (options.json !== undefined) {
      writeFileSync(options.json, `${JSON.stringify({ machine, ...summary, failures, rounds }, null, 2)}\n`);
    }
  }
  for (const { round, name, failure } of failures) console.error(`FAILED in round ${round + 1}: ${name}: ${failure}`);
  return failures.length === 0 ? 0 : 1;
}

async function measureRow(system, place, programs, { phases, share, profile }) {
  const row = await startRow(system, place, programs, profile);
  const measured = {};
  try {
    for (const phase of phases) {
      measured[phase.name] = await measurePhase(row, { ...phase, seconds: phase.seconds * share });
    }
  } finally {
    await stopRow(row);
  }
  return measured;
}

/** Undefined where the usage was asked for. */
function parsed() {
  const string = { type: "string" };
  const { values } = parseArgs({
    options: {
      quick: { type: "boolean", default: false },
      help: { type: "boolean", default: false },
      rounds: string,
      only: { ...string, multiple: true },
      payload: { ...string, default: "order" },
      phase: { ...string, multiple: true },
      json: string,
      profile: string,
    },
  });
  if (values.help) {
    console.log(USAGE);
    return undefined;
  }
  const { rounds: usualRounds, share } = values.quick ? QUICK : FULL;
  const rounds = Number(values.rounds ?? (values.profile === undefined ? usualRounds : 1));
  if (!Number.isInteger(rounds) || rounds < 1) throw new Error("--rounds must be a whole number, at least 1");
  if (values.phase !== undefined && values.profile === undefined) throw new Error("--phase goes with --profile");
  const { payload } = values;
  if (payload !== "order" && payload !== "flat") throw new Error("--payload must be order or flat");
  return {
    payload,
    systems: chosen(SYSTEMS, values.only, "row"),
    phases: chosen(phasesOf(payload), values.phase && ["warm up", ...values.phase], "phase"),
    rounds,
    share,
    json: values.json,
    profile: values.profile,
  };
}

function chosen(all, names, what) {
  if (names === undefined) return all;
  const unknown = names.find((name) => !all.some((each) => each.name === name));
  if (unknown !== undefined) throw new Error(`there is no ${what} ${JSON.stringify(unknown)}`);
  return all.filter(({ name }) => names.includes(name));
}

/** Installs what is compared with, at the versions of package-lock.json. */
function install() {
  if (existsSync(join(folder, "node_modules/.package-lock.json"))) return;
  console.error("installing what is compared with");
  // Scripts of the packages are not run, see .npmrc.
  execFileSync("npm", ["ci", "--no-progress", "--loglevel=error"], { cwd: folder, stdio: ["ignore", 2, 2] });
}

/** The gateway as it is built here, and the relay, which is built now. */
function nativePrograms(directory) {
  const libc = existsSync("/etc/alpine-release") ? "musl" : "gnu";
  const platform = `${process.platform}-${process.arch}${process.platform === "linux" ? `-${libc}` : ""}`;
  const places = [`bindings/node/prebuilt/${platform}/bro`, "target/release/bro"].map((path) => join(checkout, path));
  const relay = join(directory, "relay");
  let hasRelay = true;
  try {
    execFileSync("rustc", ["--edition=2024", "-O", "-o", relay, join(folder, "relay.rs")], { stdio: ["ignore", 2, 2] });
  } catch {
    hasRelay = false;
  }
  return { bro: places.find(existsSync), relay: hasRelay ? relay : undefined };
}

function machineFacts() {
  const require = createRequire(import.meta.url);
  const { devDependencies } = require("./package.json");
  const versions = { "ipc-bro": JSON.parse(readFileSync(join(checkout, "bindings/node/package.json"))).version };
  for (const [name, version] of Object.entries(devDependencies)) versions[name] = version.replace(/^npm:.*@/, "");
  const processors = os.cpus();
  return { processor: processors[0].model, processors: processors.length, node: process.version, versions };
}

function versionsText(versions) {
  return Object.entries(versions)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");
}

function loadText(load) {
  return load.map((part) => part.toFixed(2)).join(" ");
}
