// As a program with older settings of the compiler sees the package.
import type { IPCContext } from "ipc-bro";
import { IPCClient, IPCServer } from "ipc-bro";

export async function main(context: IPCContext): Promise<string[]> {
  const server = new IPCServer({ socketPath: "/tmp/x.sock" });
  server.on("service-registered", (data) => console.log(data.serviceName));
  const client = new IPCClient({ serviceName: "a", gatewayPath: "/tmp/x.sock" });
  return await client.call<string[]>("b", "list", {}, context);
}
