// Tests the package as users get it: `node scripts/test.mjs [--no-build] [--keep] [--sanitized] [file ...]`.
//
// It is built, packed, and installed from the tarball into an empty project. The suites and the examples are copied there, so that
// nothing of the checkout is in reach of `require("ipc-bro")`, and run by node:test, whose TAP goes to stdout. Files are names
// in test/, such as `calls.test.mjs`; without any, all are run. `--keep` leaves the project where it is. `--sanitized` puts an addon in
// its place that AddressSanitizer watches: a wrong access to memory ends its process, and so its test fails.
// `node scripts/test.mjs lint` checks the sources instead: biome and tsc.
import { execFileSync, spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { binaries, checkout, packageFolder } from "./paths.mjs";
import { buildSanitized, sanitizedEnvironment } from "./sanitized.mjs";

/** A hang ends here, and is a failure; no measure of speed. */
const WATCHDOG_MS = 300_000;
/** Linked into the project: what tests need beside the package. `@types/node` brings the last one. */
const TOOLS = ["typescript", "msgpackr", "expect-type", "@types/node", "undici-types"];

const flags = process.argv.slice(2).filter((argument) => argument.startsWith("--"));
const isSanitized = flags.includes("--sanitized");
const names = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));

install();
if (names[0] === "lint") lint();
else test();

/**
 * Installs what the lock file names, unless that was done since it changed. Not by `npm ci`: that insists on the optional
 * packages of other platforms standing in the lock file too, and registries need not have them all.
 */
function install() {
  const stamp = join(packageFolder, "node_modules/.package-lock.json");
  const lock = join(packageFolder, "package-lock.json");
  if (existsSync(stamp) && statSync(stamp).mtimeMs >= statSync(lock).mtimeMs) return;
  npm(packageFolder, "install", "--no-save", "--ignore-scripts");
}

function lint() {
  const bin = join(packageFolder, "node_modules/.bin");
  const checks = [
    ["tsc", "--noEmit", "--project", packageFolder],
    ["biome", "ci", "--colors=off", packageFolder],
    ["biome", "ci", "--colors=off", `--config-path=${packageFolder}`, join(checkout, "examples/node")],
  ];
  for (const [command, ...args] of checks) {
    const { status } = spawnSync(join(bin, command), args, {
      cwd: packageFolder,
      stdio: ["ignore", "inherit", "inherit"],
    });
    if (status !== 0) process.exitCode = 1;
  }
}

function test() {
  if (!flags.includes("--no-build")) npm(packageFolder, "run", "build");
  // Without a build nothing is staged either: the tarball then lacks the Rust sources.
  const unstaged = flags.includes("--no-build") ? ["--ignore-scripts"] : [];
  const folder = mkdtempSync(join(tmpdir(), "ipc-bro-package-"));
  try {
    const tarball = join(
      folder,
      JSON.parse(npm(packageFolder, "pack", "--json", "--pack-destination", folder, ...unstaged))[0].filename,
    );
    const project = join(folder, "project");
    makeProject(project, tarball);
    // A second copy of the package, elsewhere: programs may end up with two.
    makeProject(join(project, "second"), tarball);
    process.exitCode = run(project, tarball);
  } finally {
    if (flags.includes("--keep")) console.error(`kept ${folder}`);
    else rmSync(folder, { recursive: true, force: true });
  }
}

/** An empty project with the package alone. */
function makeProject(folder, tarball) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "private": true }\n');
  npm(folder, "install", "--offline", "--no-package-lock", tarball);
  if (isSanitized) cpSync(buildSanitized(), join(folder, "node_modules/ipc-bro/prebuilt", basename(binaries), "ipc-bro.node"));
  const installed = readdirSync(join(folder, "node_modules")).filter((name) => !name.startsWith("."));
  if (installed.join() !== "ipc-bro") throw new Error(`more than the package was installed: ${installed}`);
}

function run(project, tarball) {
  for (const tool of TOOLS) {
    const link = join(project, "node_modules", tool);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join(packageFolder, "node_modules", tool), link);
  }
  const tests = join(project, "test");
  cpSync(join(packageFolder, "test"), tests, { recursive: true });
  cpSync(join(checkout, "examples/node"), join(project, "examples"), { recursive: true });
  const all = readdirSync(tests).filter((name) => name.endsWith(".test.mjs"));
  const files = all.filter((name) => names.length === 0 || names.includes(name)).map((name) => join(tests, name));
  if (files.length < names.length) throw new Error(`there is only ${all.join(", ")}`);
  const reporter = process.stdout.isTTY ? "spec" : "tap";
  const args = ["--expose-gc", "--test", `--test-timeout=${WATCHDOG_MS}`, `--test-reporter=${reporter}`, ...files];
  const env = {
    ...process.env,
    IPC_BRO_VECTORS: join(checkout, "conformance/vectors"),
    IPC_BRO_TARBALL: tarball,
    ...(isSanitized ? sanitizedEnvironment() : {}),
  };
  return spawnSync(process.execPath, args, { cwd: project, env, stdio: ["ignore", "inherit", "inherit"] }).status ?? 1;
}

/** Runs npm and gives what it prints; its complaints go to stderr. */
function npm(cwd, ...args) {
  const options = { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"], maxBuffer: 1 << 26 };
  const output = execFileSync("npm", [...args, "--no-fund", "--no-audit", "--no-update-notifier"], options);
  console.error(`npm ${args[0]} in ${basename(cwd)}: done`);
  return output;
}
