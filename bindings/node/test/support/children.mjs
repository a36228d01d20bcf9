// Programs of their own process, which tell by lines of JSON on stdout what they do.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { atEnd } from "./ipc.mjs";

/** The file of a program under `programs`. */
export function program(name) {
  return fileURLToPath(new URL(`../programs/${name}`, import.meta.url));
}

/** Starts `programs/<name>` with arguments; it is killed with the test if it is still there. */
export function start(t, name, ...args) {
  return startNode(t, [program(name), ...args]);
}

/** Starts node with arguments of any kind. */
export function startNode(t, args, options = {}) {
  const child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "pipe"], ...options });
  const lines = [];
  const waiting = [];
  let errors = "";
  child.stderr.on("data", (chunk) => {
    errors += chunk;
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(line);
    for (const check of [...waiting]) check();
  });
  const exit = new Promise((resolve) => {
    child.on("close", (code, signal) => {
      resolve({ code, signal, lines, stdout: lines.join("\n"), stderr: errors });
      for (const check of [...waiting]) check(true);
    });
  });
  atEnd(t, async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await exit;
  });
  /** Resolves when the program has printed the line. */
  const printed = (text) =>
    new Promise((resolve, reject) => {
      const check = (ended) => {
        if (lines.includes(text)) resolve();
        else if (ended) reject(new Error(`ended without printing ${text}: ${lines.join("\n")}\n${errors}`));
        else return;
        waiting.splice(waiting.indexOf(check), 1);
      };
      waiting.push(check);
      check();
    });
  return { child, exit, lines, printed };
}
