// ipc-bro, from this checkout: caller and callee of every row, and the gateway of the row that has it in Node.
import { createRequire } from "node:module";
import { userOf } from "../payload.mjs";

const { IPCClient, IPCServer } = createRequire(import.meta.url)("../../../bindings/node");

export async function serve({ socket }, { options }) {
  const client = new IPCClient({ serviceName: "callee", gatewayPath: socket, ...options });
  client.registerMethod("echo", (value) => value);
  client.registerMethod("getUserById", userOf);
  await client.connect();
  return () => client.disconnect();
}

export async function connect({ socket }, { options }) {
  const client = new IPCClient({ serviceName: "caller", gatewayPath: socket, ...options });
  await client.connect();
  const echo = (value) => client.call("callee", "echo", value);
  const small = (value) => client.call("callee", "getUserById", value);
  return { small, order: echo, flat: echo, large: echo, close: () => client.disconnect() };
}

export async function carry({ socket }) {
  const server = new IPCServer({ socketPath: socket });
  await server.start();
  return () => server.stop();
}
