// Puts the Rust sources into dist/source before packing, so that the package can be built where it has no binary, and takes them out
// again: `node scripts/stage-source.mjs [remove]`.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkout, packageFolder } from "./paths.mjs";

const staged = join(packageFolder, "dist/source");
rmSync(staged, { recursive: true, force: true });
if (process.argv[2] !== "remove") stage();

function stage() {
  mkdirSync(staged, { recursive: true });
  const members = membersOf(["bro-node", "bro"]);
  for (const member of members) {
    cpSync(join(checkout, member), join(staged, member), { recursive: true, filter: isSource });
  }
  const manifest = readFileSync(join(checkout, "Cargo.toml"), "utf8");
  const list = `members = [\n${members.map((member) => `    "${member}",\n`).join("")}]`;
  const reduced = manifest.replace(/^members = \[[^\]]*\]/m, list).replace(/^default-members = .*$/m, "");
  writeFileSync(join(staged, "Cargo.toml"), reduced);
  cpSync(join(checkout, "Cargo.lock"), join(staged, "Cargo.lock"));
  // Drops the packages that only the left out members need, and changes nothing else. Needs no crate downloaded.
  execFileSync(process.env.CARGO ?? "cargo", ["update", "--workspace", "--offline", "--quiet"], {
    cwd: staged,
    stdio: ["ignore", "ignore", "inherit"],
    maxBuffer: 1 << 28,
  });
}

function isSource(path) {
  // Also tests and examples: manifests may name them.
  return !/[\\/](target|node_modules)$/.test(path);
}

/** The folders of these members and of all members that they depend on. */
function membersOf(names) {
  const flags = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
  const text = execFileSync(process.env.CARGO ?? "cargo", flags, {
    cwd: checkout,
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  const packages = new Map(JSON.parse(text).packages.map((one) => [one.name, one]));
  const found = new Set();
  const add = (name) => {
    const one = packages.get(name);
    if (one === undefined || found.has(name)) return;
    found.add(name);
    for (const dependency of one.dependencies) if (dependency.kind !== "dev") add(dependency.name);
  };
  names.forEach(add);
  return [...found]
    .map((name) => packages.get(name).manifest_path.slice(checkout.length + 1, -"/Cargo.toml".length))
    .sort();
}
