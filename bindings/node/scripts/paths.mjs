// Where things are, for the scripts beside this file.
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of the package. */
export const packageFolder = resolve(dirname(fileURLToPath(import.meta.url)), "..");
/** The checkout that the package is part of. */
export const checkout = resolve(packageFolder, "../..");
/** The machine that this runs on, as its folder of binaries is called. */
export const platform = platformName();

function platformName() {
  const machine = `${process.platform}-${process.arch}`;
  if (process.platform !== "linux") return machine;
  return `${machine}-${existsSync("/etc/alpine-release") ? "musl" : "gnu"}`;
}

/** The binaries of this machine, as they are shipped. */
export const binaries = join(packageFolder, "prebuilt", platform);
