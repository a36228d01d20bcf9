// Makes the package of this platform, `ipc-bro-<platform>`, from the binaries that were built: in dist/ipc-bro-<platform>/, ready for
// `npm publish`. The loader finds it beside `ipc-bro`, which names it among its optionalDependencies once it is published: npm then
// installs the one that fits, and its tarball needs no binaries of its own.
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { binaries, packageFolder, platform } from "./paths.mjs";

const { version, license, engines } = JSON.parse(readFileSync(join(packageFolder, "package.json"), "utf8"));
const [os, cpu, libc] = platform.split("-");
const files = readdirSync(binaries);
const folder = join(packageFolder, "dist", `ipc-bro-${platform}`);
mkdirSync(folder, { recursive: true });
for (const file of files) copyFileSync(join(binaries, file), join(folder, file));
const description = {
  name: `ipc-bro-${platform}`,
  version,
  description: `The native part of ipc-bro for ${platform}.`,
  license,
  engines,
  os: [os],
  cpu: [cpu],
  ...(libc !== undefined && { libc: [libc === "gnu" ? "glibc" : libc] }),
  main: "ipc-bro.node",
  files,
};
writeFileSync(join(folder, "package.json"), `${JSON.stringify(description, null, 2)}\n`);
console.log(`made ${folder}`);
