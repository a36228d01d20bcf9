// Forked: connects, calls "echo" in the parent, tells the result over the channel of the fork, ends by itself.
import { IPCClient } from "ipc-bro";

const client = new IPCClient({ serviceName: `child-${process.pid}`, gatewayPath: process.argv[2] });
client.registerMethod("ping", () => "from the child");
await client.connect();
const answer = await client.call("parent", "echo", process.pid);
process.send({ answer });
process.once("message", async () => {
  await client.disconnect();
  process.disconnect();
});
