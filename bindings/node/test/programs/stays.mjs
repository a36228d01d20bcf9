// A connected client, and nothing else that would keep the process. Arguments: path of the socket.
import { IPCClient } from "ipc-bro";

const client = new IPCClient({ serviceName: "stays", gatewayPath: process.argv[2] });
client.registerMethod("leave", () => void setImmediate(() => client.disconnect()));
await client.connect();
