// The declarations, checked by the compiler with the settings that programs have.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";

const tsc = createRequire(import.meta.url).resolve("typescript/lib/tsc.js");
const folder = fileURLToPath(new URL("types/", import.meta.url));

function compile(files, ...flags) {
  const args = [tsc, "--noEmit", "--pretty", "false", "--types", "node", ...flags, ...files];
  const { status, stdout } = spawnSync(process.execPath, args, { cwd: folder, encoding: "utf8" });
  return { status, stdout };
}

const STRICT = [
  "--strict",
  "--exactOptionalPropertyTypes",
  "--noUncheckedIndexedAccess",
  "--noImplicitOverride",
  "--target",
  "ES2022",
  "--lib",
  "ES2023,ESNext.Disposable",
];

describe("declarations compile", () => {
  const settings = {
    "the whole API, strict, as an ES module": [["api.mts"], ["--module", "Node16", ...STRICT]],
    "a consumer in CommonJS, strict": [["consumer.cts"], ["--module", "Node16", ...STRICT]],
    "for bundlers": [["legacy.ts"], ["--module", "ESNext", "--moduleResolution", "Bundler", ...STRICT]],
    "with node10 resolution, as older projects have it": [
      ["legacy.ts"],
      ["--module", "CommonJS", "--moduleResolution", "Node10", "--strict", "--esModuleInterop", "--target", "ES2020"],
    ],
    "without strict, and with skipLibCheck": [
      ["legacy.ts"],
      ["--module", "Node16", "--skipLibCheck", "--target", "ES2020"],
    ],
    "with verbatimModuleSyntax and isolatedModules": [
      ["api.mts"],
      ["--module", "NodeNext", "--verbatimModuleSyntax", "--isolatedModules", ...STRICT],
    ],
  };
  for (const [name, [files, flags]] of Object.entries(settings)) {
    test(name, () => assert.deepEqual(compile(files, ...flags), { status: 0, stdout: "" }));
  }
});

test("the compiler does see the types: a mistake is an error", () => {
  const { status, stdout } = compile(["mistake.mts"], "--module", "Node16", ...STRICT);
  assert.notEqual(status, 0);
  assert.match(stdout, /mistake\.mts\(5,.*error TS2/);
});
