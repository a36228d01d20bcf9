// Errors across services: codes of one's own, telling apart what others report, and results that describe a failure.
import { IPCClient, IPCError, IPCErrorCode } from "ipc-bro";

const client = new IPCClient({
  serviceName: "payment-service",
  gatewayPath: process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock",
  // Banks take their time.
  timeout: 60_000,
});

interface Payment {
  userId: string;
  amount: number;
}

// What is thrown reaches the caller with its message and its code.
client.registerMethod("processPayment", async ({ userId, amount }: Payment) => {
  if (!(amount > 0)) throw new IPCError("an amount must be positive", "INVALID_AMOUNT");
  const user = await client.call("user-service", "getUserById", { userId });
  if (user === null) throw new IPCError(`there is no user ${userId}`, "USER_NOT_FOUND");
  console.log(`charging ${user.name}: ${amount}`);
  await new Promise((resolve) => setTimeout(resolve, 20));
  return { success: true, transactionId: `TXN-${Date.now()}`, amount };
});

// Some callers want a result in any case.
client.registerMethod("tryPayment", async (payment: Payment) => {
  try {
    return await client.call("payment-service", "processPayment", payment);
  } catch (error) {
    const { code, message } = error as IPCError;
    switch (code) {
      case IPCErrorCode.SERVICE_NOT_FOUND:
      case IPCErrorCode.CONNECTION_LOST:
      case IPCErrorCode.TIMEOUT:
        return { success: false, retryable: true, reason: message };
      default:
        return { success: false, retryable: false, reason: message };
    }
  }
});

await client.connect();
console.log("ready");

process.once("SIGTERM", () => client.disconnect());
