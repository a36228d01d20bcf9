// Calls one method and waits. Arguments: path of the socket, service, method.
import { IPCClient } from "ipc-bro";

const [gatewayPath, service, method] = process.argv.slice(2);
const client = new IPCClient({ serviceName: "caller", gatewayPath });
await client.connect();
const call = client.call(service, method, null);
console.log("calling");
console.log(await call.catch(({ code }) => code));
await client.disconnect();
