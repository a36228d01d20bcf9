// The examples, compiled with their own settings against the installed package, and run.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { startNode } from "./support/children.mjs";

const folder = fileURLToPath(new URL("../examples/", import.meta.url));
const tsc = createRequire(import.meta.url).resolve("typescript/lib/tsc.js");

test("every example compiles, runs, and does as it says", async (t) => {
  const { status, stdout } = spawnSync(process.execPath, [tsc, "--pretty", "false", "--project", folder], {
    encoding: "utf8",
  });
  assert.deepEqual({ status, stdout }, { status: 0, stdout: "" });
  const run = await startNode(t, [`${folder}/run-all.mjs`]).exit;
  assert.deepEqual([run.code, run.stderr], [0, ""], run.stdout);
  const programs = readdirSync(folder).filter((name) => name.endsWith(".ts") && name !== "statsd.ts");
  assert.deepEqual(run.lines.sort(), programs.map((name) => `ok ${name.slice(0, -3)}`).sort());
});
