// Trying again, but only what may work the next time, with a pause that grows, and within one deadline for all attempts.
import { type CallOptions, IPCClient, IPCError, IPCErrorCode, IPCUtils } from "ipc-bro";

/** Failures that the same call would only meet again. */
const FINAL: readonly string[] = [
  IPCErrorCode.METHOD_NOT_FOUND,
  IPCErrorCode.SERVICE_NOT_FOUND,
  IPCErrorCode.SERIALIZATION_FAILED,
  IPCErrorCode.PAYLOAD_TOO_LARGE,
  IPCErrorCode.CANCELLED,
];

/**
 * Only for methods that may run twice: when an answer is lost, nobody knows whether the call was carried out.
 */
async function callWithRetry<T>(
  client: IPCClient,
  service: string,
  method: string,
  params: unknown,
  { retries = 3, ...options }: CallOptions & { retries?: number } = {},
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await client.call<T>(service, method, params, options);
    } catch (error) {
      if (!(error instanceof IPCError) || FINAL.includes(error.code) || attempt === retries) throw error;
      console.log(`attempt ${attempt + 1} failed: ${error.message}`);
      await IPCUtils.sleep(IPCUtils.calculateBackoff(attempt, 20, 1000));
    }
  }
}

const gatewayPath = process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock";
const flaky = new IPCClient({ serviceName: "flaky-service", gatewayPath });
let calls = 0;
flaky.registerMethod("read", async ({ id }) => {
  if (++calls < 3) throw new Error("not this time");
  return { id, calls };
});

const client = new IPCClient({ serviceName: "order-service", gatewayPath });
await Promise.all([flaky.connect(), client.connect()]);

const signal = AbortSignal.timeout(10_000);
console.log(await callWithRetry(client, "flaky-service", "read", { id: "123" }, { retries: 3, signal }));
try {
  await callWithRetry(client, "flaky-service", "missing", {});
} catch (error) {
  console.log(`not tried again: ${(error as IPCError).code}`);
}

await client.disconnect();
await flaky.disconnect();
