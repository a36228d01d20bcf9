// What a gateway sees, as StatsD counters: services, calls by caller and callee, results by status.
import { IPCServer } from "ipc-bro";
import { StatsD } from "./statsd.js";

const statsd = new StatsD();
const server = new IPCServer({ socketPath: process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock" });

const countServices = () => statsd.gauge("gateway.services.total", server.getConnectedServices().length);

server.on("service-registered", () => {
  statsd.increment("gateway.services.connected");
  countServices();
});
server.on("service-disconnected", () => {
  statsd.increment("gateway.services.disconnected");
  countServices();
});
server.on("call-routed", ({ from, to }) => {
  statsd.increment("gateway.calls.routed", { from, to });
});
server.on("response-routed", ({ status }) => {
  statsd.increment(`gateway.responses.${status}`);
});

await server.start();
console.log("ready");

process.once("SIGTERM", () => server.stop());
