// An addon that AddressSanitizer watches, and what a process needs to load it. Linux with gcc only: Node is not built for it, so
// the sanitizer's own library, which comes with gcc, is loaded before everything else.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { checkout } from "./paths.mjs";

/** Builds the addon, and gives its file. In a folder of its own: other flags would compile everything again, here and the next time there. */
export function buildSanitized() {
  const target = `${process.arch === "arm64" ? "aarch64" : "x86_64"}-unknown-linux-gnu`;
  const folder = join(process.env.CARGO_TARGET_DIR ?? join(checkout, "target"), "sanitized");
  const flags = ["build", "--quiet", "--locked", "--package", "bro-node", "--target", target, "--target-dir", folder];
  const env = {
    ...process.env,
    // The stable compiler brings the sanitizer, and hides it behind this.
    RUSTC_BOOTSTRAP: "1",
    RUSTFLAGS: "-Zsanitizer=address",
    CARGO_PROFILE_DEV_OPT_LEVEL: "1",
  };
  execFileSync(process.env.CARGO ?? "cargo", flags, { cwd: checkout, env, stdio: ["ignore", "inherit", "inherit"] });
  const addon = join(folder, target, "debug/libbro_node.so");
  // One that is watched calls the sanitizer, and so cannot be loaded without it.
  const load = ["-e", "process.dlopen(module, process.argv[1])", addon];
  if (spawnSync(process.execPath, load, { stdio: "ignore" }).status === 0) throw new Error(`${addon} is not watched`);
  return addon;
}

/** What a Node process needs in its environment. */
export function sanitizedEnvironment() {
  const library = execFileSync("gcc", ["-print-file-name=libasan.so"], { encoding: "utf8" }).trim();
  if (!existsSync(library)) throw new Error("gcc has no libasan.so: install libgcc's development files");
  // Node itself leaves memory behind when it ends.
  return { LD_PRELOAD: library, ASAN_OPTIONS: "detect_leaks=0" };
}
