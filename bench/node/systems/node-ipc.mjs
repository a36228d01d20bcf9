// node-ipc over its Unix socket. It has events and no calls, so requests and answers are matched by id here, as its users do.
import { userOf } from "../payload.mjs";

export async function serve({ calleeSocket }, { options }) {
  const ipc = await load(options.package);
  ipc.serve(calleeSocket, () => {});
  ipc.server.on("echo", ({ id, value }, socket) => ipc.server.emit(socket, "answer", { id, value }));
  ipc.server.on("getUserById", ({ id, value }, socket) =>
    ipc.server.emit(socket, "answer", { id, value: userOf(value) }),
  );
  const started = new Promise((resolve, reject) => {
    ipc.server.on("start", resolve);
    ipc.server.on("error", reject);
  });
  ipc.server.start();
  await started;
  return () => ipc.server.stop();
}

export async function connect({ socket }, { options }) {
  const ipc = await load(options.package);
  const waiting = new Map();
  let nextId = 0;
  await new Promise((resolve, reject) => {
    ipc.connectTo("callee", socket, () => {
      ipc.of.callee.on("connect", resolve);
      ipc.of.callee.on("error", reject);
      ipc.of.callee.on("answer", ({ id, value }) => {
        const resolveCall = waiting.get(id);
        waiting.delete(id);
        resolveCall(value);
      });
    });
  });
  const { callee } = ipc.of;
  const call = (method) => (value) =>
    new Promise((resolve) => {
      const id = nextId++;
      waiting.set(id, resolve);
      callee.emit(method, { id, value });
    });
  const echo = call("echo");
  return { small: call("getUserById"), order: echo, flat: echo, large: echo, close: () => ipc.disconnect("callee") };
}

async function load(name) {
  const { default: ipc } = await import(name);
  ipc.config.silent = true;
  ipc.config.maxRetries = 0;
  ipc.config.stopRetrying = true;
  return ipc;
}
