// What there is beside the basics. Brings its own gateway.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { IPCClient, type IPCError, IPCServer } from "ipc-bro";

interface Thumbnails {
  make(params: { image: Uint8Array; width: number }): { image: Uint8Array; width: number };
  never(): Promise<void>;
}

const folder = await mkdtemp(join(tmpdir(), "bro-beyond-"));
const gatewayPath = join(folder, "gateway.sock");
const server = new IPCServer({ socketPath: gatewayPath });
await server.start();

// msgpack for what is mostly binary. Programs of both kinds call each other.
const worker = new IPCClient({ serviceName: "thumbnails", gatewayPath, serializer: "msgpack", poolSize: 2 });
worker.registerMethod("make", ({ image, width }) => ({ image: image.subarray(0, width), width }));
worker.registerMethod("never", () => new Promise(() => {}));
await worker.connect();

const client = new IPCClient({ serviceName: "web", gatewayPath, serializer: "msgpack" });
await client.connect();

// A façade: methods by name, types from the interface.
const thumbnails = client.service<Thumbnails>("thumbnails");
const { image } = await thumbnails.make({ image: new Uint8Array([1, 2, 3, 4]), width: 2 });
console.log(`binary: ${image.length} bytes`);

// Cancellation.
const control = new AbortController();
setTimeout(() => control.abort(), 10);
await thumbnails.never(undefined, { signal: control.signal }).catch((error: IPCError) => console.log(error.code));

// Events as a loop.
const executed = worker.eventsOf("method-executed");
const first = executed.next();
await thumbnails.make({ image: new Uint8Array(10), width: 5 });
let { value } = await first;
// The end of `never` may be told only now: its caller did not wait for that.
if (value?.method === "never") ({ value } = await executed.next());
console.log(`event: ${value?.method} ${value?.success}`);
await executed.return();

// The gateway answers questions, from any program.
const { services } = await client.call("bro.gateway", "services", {});
console.log(
  services
    .map(({ name, instances }: { name: string; instances: unknown[] }) => `${name} x${instances.length}`)
    .join(", "),
);

await client.disconnect();
await worker.disconnect();
await server.stop();
await rm(folder, { recursive: true });
