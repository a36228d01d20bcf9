#!/usr/bin/env node
// The `bro` command of this platform: shipped in this package, or in the package of the platform.

const { spawn } = require("node:child_process");
const { existsSync } = require("node:fs");
const { constants } = require("node:os");
const { dirname, join } = require("node:path");

const machine = `${process.platform}-${process.arch}`;
const platforms = process.platform === "linux" ? [`${machine}-gnu`, `${machine}-musl`] : [machine];
if (existsSync("/etc/alpine-release")) platforms.reverse();
const file = process.platform === "win32" ? "bro.exe" : "bro";

const command = platforms.map(find).find((found) => found !== undefined);
if (command === undefined) {
  console.error(`bro: there is no binary for ${machine}. With Rust installed, \`npx ipc-bro-build\` makes one.`);
  process.exit(1);
}

const child = spawn(command, process.argv.slice(2), { stdio: "inherit" });
// Signals of the terminal reach both; others are passed on. The child decides what they mean.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"])
  process.on(signal, () => signal !== "SIGINT" && child.kill(signal));
child.on("error", (error) => {
  console.error(`bro: ${command}: ${error.message}`);
  process.exit(1);
});
child.on("exit", (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));

function find(platform) {
  const shipped = join(__dirname, "..", "prebuilt", platform, file);
  if (existsSync(shipped)) return shipped;
  try {
    return join(dirname(require.resolve(`ipc-bro-${platform}/package.json`)), file);
  } catch {
    return undefined;
  }
}
