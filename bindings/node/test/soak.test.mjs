// A small soak; the large one is run by hand (`npm run soak`).
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { startNode } from "./support/children.mjs";

test("60,000 calls and 1,200 connects leave nothing behind", async (t) => {
  const soak = fileURLToPath(new URL("soak.mjs", import.meta.url));
  const { code, stdout, stderr } = await startNode(t, ["--expose-gc", soak, "60000", "1200"]).exit;
  assert.deepEqual({ code, stderr }, { code: 0, stderr: "" }, stdout);
});
