// A gateway that is started again when it fails, with more and more time between attempts, and not forever.
import { IPCServer, IPCUtils } from "ipc-bro";

const socketPath = process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock";
const ATTEMPTS_MAX = 5;
const FIRST_DELAY_MS = Number(process.env.FIRST_DELAY_MS ?? 1000);

let server: IPCServer | undefined;
let failures = 0;

async function start(): Promise<void> {
  server = new IPCServer({ socketPath });
  // It ran, and cannot go on.
  server.on("error", (error) => {
    console.error(`the gateway failed: ${error.message}`);
    void retry();
  });
  try {
    await server.start();
    failures = 0;
    console.log("ready");
  } catch (error) {
    console.error(`the gateway did not start: ${(error as Error).message}`);
    await retry();
  }
}

async function retry(): Promise<void> {
  if (++failures > ATTEMPTS_MAX) {
    console.error(`giving up after ${ATTEMPTS_MAX} attempts`);
    process.exitCode = 1;
    return;
  }
  const delayMs = IPCUtils.calculateBackoff(failures - 1, FIRST_DELAY_MS);
  console.log(`attempt ${failures} in ${delayMs} ms`);
  await server?.stop();
  await IPCUtils.sleep(delayMs);
  await start();
}

process.once("SIGTERM", () => server?.stop());
await start();
