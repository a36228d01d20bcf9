// A gateway until it is killed or told to stop. Arguments: path of the socket.
import { IPCServer } from "ipc-bro";

const server = new IPCServer({ socketPath: process.argv[2] });
await server.start();
process.once("SIGTERM", () => server.stop());
console.log("ready");
