// A gateway that tells who comes and who calls whom.
import { IPCServer } from "ipc-bro";

const server = new IPCServer({ socketPath: process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock" });

server.on("service-registered", ({ serviceName, methods }) => {
  console.log(`+ ${serviceName} offers ${methods.join(", ") || "nothing"}`);
});
server.on("service-disconnected", ({ serviceName }) => {
  console.log(`- ${serviceName}`);
});
server.on("call-routed", ({ from, to, method, context }) => {
  console.log(`  ${from} calls ${to}.${method} (depth ${context.depth})`);
});

await server.start();
console.log("ready");

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, async () => {
    await server.stop();
    console.log("stopped");
  });
}
