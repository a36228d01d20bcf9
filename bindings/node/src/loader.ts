import { existsSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "./codec";
import { IPCError, IPCErrorCode } from "./errors";

/** Names the file of the addon, instead of looking for it. */
const OVERRIDE = "IPC_BRO_ADDON";
const FILE = "ipc-bro.node";

/** Loads the native addon: from where `IPC_BRO_ADDON` says, from this package, or from the package of the platform. */
export function loadAddon(): unknown {
  if (process.versions.bun !== undefined) {
    throw unavailable("it runs on Node's event loop, which Bun does not have");
  }
  const override = process.env[OVERRIDE];
  const failures: string[] = [];
  for (const candidate of override === undefined ? candidates() : [override]) {
    try {
      return require(candidate);
    } catch (error) {
      failures.push(`  ${candidate}: ${messageOf(error).split("\n", 1)[0]}`);
    }
  }
  const build = "There may be no binary for this platform: with Rust installed, `npx ipc-bro-build` makes one.";
  throw unavailable(`none of these could be loaded\n${failures.join("\n")}\n${build}`);
}

/** The name of this platform in packages and folders; on Linux both C libraries, the likely one first. */
export function platformNames(): string[] {
  const machine = `${process.platform}-${process.arch}`;
  if (process.platform !== "linux") return [machine];
  const names = [`${machine}-gnu`, `${machine}-musl`];
  return existsSync("/etc/alpine-release") ? names.reverse() : names;
}

function* candidates(): Generator<string> {
  for (const name of platformNames()) {
    const shipped = join(__dirname, "..", "prebuilt", name, FILE);
    if (existsSync(shipped)) yield shipped;
  }
  for (const name of platformNames()) yield `ipc-bro-${name}/${FILE}`;
}

function unavailable(why: string): IPCError {
  const machine = `${process.platform}-${process.arch}, Node ${process.versions.node}`;
  return new IPCError(`the native part of ipc-bro cannot be loaded (${machine}): ${why}`, IPCErrorCode.INTERNAL_ERROR);
}
