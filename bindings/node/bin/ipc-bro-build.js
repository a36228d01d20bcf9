#!/usr/bin/env node
// Builds the native part from the sources in this package, for platforms without a binary. Needs Rust.

const { spawnSync } = require("node:child_process");
const { copyFileSync, existsSync, mkdirSync, chmodSync, renameSync } = require("node:fs");
const { join } = require("node:path");

const source = join(__dirname, "..", "dist", "source");
if (!existsSync(join(source, "Cargo.toml"))) {
  console.error("ipc-bro-build: there are no sources in this package; in a checkout, run `npm run build`");
  process.exit(1);
}
const target = join(source, "target");
const flags = ["build", "--release", "--locked", "--target-dir", target];
const built = spawnSync(process.env.CARGO ?? "cargo", flags, {
  cwd: source,
  stdio: "inherit",
});
if (built.error !== undefined) {
  console.error(`ipc-bro-build: cargo cannot be started (${built.error.message}). Rust: https://rustup.rs`);
  process.exit(1);
}
if (built.status !== 0) process.exit(built.status ?? 1);

const machine = `${process.platform}-${process.arch}`;
const libc = existsSync("/etc/alpine-release") ? "musl" : "gnu";
const platform = process.platform === "linux" ? `${machine}-${libc}` : machine;
const folder = join(__dirname, "..", "prebuilt", platform);
mkdirSync(folder, { recursive: true });
const [prefix, ending, exe] = { win32: ["", "dll", ".exe"], darwin: ["lib", "dylib", ""] }[process.platform] ?? [
  "lib",
  "so",
  "",
];
place(`${prefix}bro_node.${ending}`, "ipc-bro.node");
place(`bro${exe}`, `bro${exe}`);

function place(made, name) {
  const to = join(folder, name);
  copyFileSync(join(target, "release", made), `${to}.new`);
  chmodSync(`${to}.new`, 0o755);
  renameSync(`${to}.new`, to);
  console.log(`built ${to}`);
}
