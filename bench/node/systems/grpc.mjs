// @grpc/grpc-js: unary calls over a Unix socket, the payload as a protobuf message with the same fields.
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { userOf } from "../payload.mjs";

const definition = loadSync(fileURLToPath(new URL("echo.proto", import.meta.url)), { keepCase: true, defaults: true });
const { Echo } = grpc.loadPackageDefinition(definition).bench;

export async function serve({ socket }) {
  const server = new grpc.Server();
  const echo = ({ request }, answer) => answer(null, request);
  const small = ({ request }, answer) => answer(null, userOf(request));
  server.addService(Echo.service, { Small: small, Order: echo, Flat: echo, Large: echo });
  await new Promise((resolve, reject) => {
    server.bindAsync(`unix:${socket}`, grpc.ServerCredentials.createInsecure(), (error) =>
      error ? reject(error) : resolve(),
    );
  });
  return () => server.forceShutdown();
}

export async function connect({ socket }) {
  const client = new Echo(`unix:${socket}`, grpc.credentials.createInsecure());
  await new Promise((resolve, reject) => {
    client.waitForReady(Date.now() + 10_000, (error) => (error ? reject(error) : resolve()));
  });
  const unary = (method) => (request) =>
    new Promise((resolve, reject) => {
      client[method](request, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  const text = unary("Large");
  const large = async (value) => (await text({ text: value })).text;
  return { small: unary("Small"), order: unary("Order"), flat: unary("Flat"), large, close: () => client.close() };
}
