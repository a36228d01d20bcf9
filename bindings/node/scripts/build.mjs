// Builds the package in its folder: `node scripts/build.mjs [native] [typescript]`, both when none is named.
//
// native:     the addon and the `bro` command, by cargo, into prebuilt/<platform>/
// typescript: src/ into dist/, with a wrapper so that `import` and `require` give the same classes
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { binaries, checkout, packageFolder } from "./paths.mjs";

const parts = process.argv.slice(2);
const wants = (part) => parts.length === 0 || parts.includes(part);

if (wants("native")) buildNative();
if (wants("typescript")) buildTypescript();

function buildNative() {
  const built = cargoBuild(["--package", "bro-node", "--package", "bro"]);
  mkdirSync(binaries, { recursive: true });
  place(
    built.find((file) => /bro_node\.(so|dylib|dll)$/.test(file)),
    "ipc-bro.node",
  );
  const command = built.find((file) => /[\\/]bro(\.exe)?$/.test(file));
  place(command, command?.endsWith(".exe") ? "bro.exe" : "bro");
}

/** Runs cargo, and gives the files that it says it made. */
function cargoBuild(packages) {
  const options = { cwd: checkout, stdio: ["ignore", "pipe", "inherit"], maxBuffer: 1 << 28, encoding: "utf8" };
  const flags = ["build", "--profile", "packaged", "--locked", "--message-format", "json-render-diagnostics"];
  const lines = execFileSync(process.env.CARGO ?? "cargo", [...flags, ...packages], options).split("\n");
  const artifacts = lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  return artifacts.flatMap((artifact) => [...(artifact.filenames ?? []), artifact.executable ?? []].flat());
}

/** Copies by renaming: a process that has the old file loaded keeps it. */
function place(file, name) {
  if (file === undefined) throw new Error(`cargo did not build ${name}`);
  const target = join(binaries, name);
  copyFileSync(file, `${target}.new`);
  chmodSync(`${target}.new`, 0o755);
  stripDebug(`${target}.new`);
  renameSync(`${target}.new`, target);
  console.log(`built ${target}`);
}

/** Takes out what only debuggers read, most of the file. Where there is no such tool the file is larger, and works. */
function stripDebug(file) {
  if (process.platform === "win32") return;
  spawnSync("strip", [process.platform === "darwin" ? "-S" : "--strip-debug", file], { stdio: "ignore" });
}

function buildTypescript() {
  const require = createRequire(join(packageFolder, "package.json"));
  const dist = join(packageFolder, "dist");
  mkdirSync(dist, { recursive: true });
  // msgpackr as one file: as a dependency it would bring an install script with it.
  const msgpackr = join(packageFolder, "node_modules/msgpackr");
  if (!existsSync(msgpackr)) throw new Error("run `npm install` first");
  copyFileSync(join(msgpackr, "dist/index.js"), join(dist, "msgpackr.js"));
  copyFileSync(join(msgpackr, "LICENSE"), join(dist, "msgpackr.LICENSE"));
  execFileSync(process.execPath, [require.resolve("typescript/lib/tsc.js"), "--project", packageFolder], {
    stdio: "inherit",
  });
  const names = Object.keys(require(join(dist, "index.js")));
  const wrapper = `import cjs from "./index.js";\n${names.map((name) => `export const ${name} = cjs.${name};\n`).join("")}`;
  writeFileSync(join(dist, "index.mjs"), wrapper);
  writeFileSync(join(dist, "index.d.mts"), 'export * from "./index.js";\n');
  console.log(`built ${dist} (${names.join(", ")})`);
}
