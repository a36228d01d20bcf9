// A gateway whose health can be asked for over HTTP: GET /health and GET /services.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { IPCServer } from "ipc-bro";

const server = new IPCServer({ socketPath: process.env.BRO_SOCKET ?? "/tmp/bro-gateway.sock" });

function health() {
  const { running, connectedServices, services } = server.getStatus();
  return { healthy: running, connectedServices, services };
}

function services() {
  const entries = server.getConnectedServices().map((name) => server.getService(name));
  return entries.flatMap((entry) => {
    // It may have left between the two questions.
    if (entry === undefined) return [];
    const { name, methods, connectedAt, lastHeartbeat } = entry;
    const isoTime = (ms: number) => new Date(ms).toISOString();
    return [{ name, methods, connectedAt: isoTime(connectedAt), lastHeartbeat: isoTime(lastHeartbeat) }];
  });
}

const pages: Record<string, () => unknown> = { "/health": health, "/services": services };

const http = createServer((request, response) => {
  const page = pages[request.url ?? ""];
  response.writeHead(page === undefined ? 404 : 200, { "content-type": "application/json" });
  response.end(JSON.stringify(page?.() ?? { error: "no such page" }));
});

await server.start();
http.listen(Number(process.env.PORT ?? 3000), "127.0.0.1", () => {
  console.log(`health at http://127.0.0.1:${(http.address() as AddressInfo).port}/health`);
});

process.once("SIGTERM", async () => {
  http.close();
  await server.stop();
});
