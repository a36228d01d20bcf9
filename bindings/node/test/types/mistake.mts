// Must not compile, in line 5 alone.
import { IPCClient } from "ipc-bro";

const client = new IPCClient({ serviceName: "a" });
const connected: string = client.isConnected();
console.log(connected);
