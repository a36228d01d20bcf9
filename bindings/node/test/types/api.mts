// Types of the documented API, as an ES module sees them. Compiled, never run; every `@ts-expect-error` must be an error.
import { expectTypeOf } from "expect-type";
import {
  type BaseMessage,
  type CallMessage,
  type CallOptions,
  currentContext,
  type HeartbeatMessage,
  IPCClient,
  type IPCClientConfig,
  type IPCContext,
  IPCError,
  IPCErrorCode,
  type IPCMessage,
  IPCServer,
  type IPCServerConfig,
  IPCUtils,
  type MessageType,
  type MethodHandler,
  type MethodRegistry,
  type Notifier,
  type PendingRequest,
  type RegisterMessage,
  type ResponseMessage,
  type ResponseStatus,
  type Service,
  type ServiceEntry,
  type UserStats,
} from "ipc-bro";

// The documented types and interfaces.
expectTypeOf<MessageType>().toEqualTypeOf<"CALL" | "RESPONSE" | "REGISTER" | "HEARTBEAT">();
expectTypeOf<ResponseStatus>().toEqualTypeOf<"success" | "error">();
interface DocumentedContext {
  root: string;
  chain: string[];
  depth: number;
  deadline: number;
}
expectTypeOf<Omit<IPCContext, "signal" | "caller">>().toEqualTypeOf<DocumentedContext>();
expectTypeOf<IPCContext>().toExtend<DocumentedContext>();
expectTypeOf<DocumentedContext>().toExtend<IPCContext>();
expectTypeOf<IPCContext["signal"]>().toEqualTypeOf<AbortSignal | undefined>();
declare const given: IPCContext;
// @ts-expect-error nobody sets the signal of a context
given.signal = AbortSignal.timeout(1);
expectTypeOf<IPCContext["caller"]>().toEqualTypeOf<string | undefined>();
// @ts-expect-error nor its caller
given.caller = "admin";
expectTypeOf<CallMessage>().toExtend<BaseMessage>();
expectTypeOf<ResponseMessage>().toExtend<BaseMessage>();
expectTypeOf<IPCMessage>().toEqualTypeOf<CallMessage | ResponseMessage | RegisterMessage | HeartbeatMessage>();
expectTypeOf<MethodRegistry>().toExtend<Map<string, MethodHandler>>();
expectTypeOf<PendingRequest>().toHaveProperty("resolve");
expectTypeOf<ServiceEntry>().toHaveProperty("methods").toEqualTypeOf<string[]>();
expectTypeOf<ServiceEntry>().toHaveProperty("lastHeartbeat").toEqualTypeOf<number>();
expectTypeOf<ServiceEntry["instances"][number]["gid"]>().toEqualTypeOf<number | undefined>();

// Configurations: what the readme writes compiles.
new IPCServer();
new IPCServer({ debug: true });
const serverConfig: IPCServerConfig = {
  socketPath: "/tmp/x.sock",
  heartbeatInterval: 1,
  timeout: 1,
  debug: false,
  serializer: "msgpack",
};
const server = new IPCServer(serverConfig);
const clientConfig: IPCClientConfig = {
  serviceName: "order-service",
  gatewayPath: "/tmp/bro-gateway.sock",
  autoReconnect: true,
  reconnectDelay: 5000,
  timeout: 30000,
  heartbeatInterval: 30000,
  debug: false,
};
const client = new IPCClient(clientConfig);
new IPCClient({ serviceName: "order-service", serializer: "msgpack", poolSize: 4 });
// @ts-expect-error a client has a name
new IPCClient({ gatewayPath: "/tmp/x.sock" });
// @ts-expect-error and that is a string
new IPCClient({ serviceName: 7, gatewayPath: "/tmp/x.sock" });
new IPCClient({ serviceName: "order-service", protocol: 1, lanes: false, laneSpinUs: 50 });
new IPCServer({ socketPath: "/tmp/x.sock", protocol: "auto", lanes: "always" });
// @ts-expect-error there is no version 3
new IPCClient({ serviceName: "order-service", protocol: 3 });
// @ts-expect-error lanes of a server are a policy
new IPCServer({ lanes: true });
new IPCServer({ policy: { file: "/etc/policy.toml" }, mode: 0o666 });
new IPCServer({ policy: { toml: "[[rules]]" } });
expectTypeOf(new IPCServer().reloadPolicy()).toEqualTypeOf<number>();
// @ts-expect-error a policy says whether it is a path or a text
new IPCServer({ policy: "/etc/policy.toml" });
// @ts-expect-error there are two serializers
new IPCServer({ socketPath: "/tmp/x.sock", serializer: "xml" });

// Methods.
expectTypeOf(server.start()).toEqualTypeOf<Promise<void>>();
expectTypeOf(server.stop()).toEqualTypeOf<Promise<void>>();
expectTypeOf(server.getConnectedServices()).toEqualTypeOf<string[]>();
expectTypeOf(server.getService("x")).toEqualTypeOf<ServiceEntry | undefined>();
expectTypeOf(server.isServiceConnected("x")).toEqualTypeOf<boolean>();
const { running, socketPath, connectedServices, services } = server.getStatus();
expectTypeOf([running, socketPath, connectedServices, services] as const).toEqualTypeOf<
  readonly [boolean, string, number, string[]]
>();
expectTypeOf(client.connect()).toEqualTypeOf<Promise<void>>();
expectTypeOf(client.disconnect()).toEqualTypeOf<Promise<void>>();
expectTypeOf(client.disconnect({ drain: true })).toEqualTypeOf<Promise<void>>();
expectTypeOf(client.disconnect({ drain: 500 })).toEqualTypeOf<Promise<void>>();
expectTypeOf(client.drain()).toEqualTypeOf<Promise<void>>();
expectTypeOf(client.drain({ timeout: 500 })).toEqualTypeOf<Promise<void>>();
// @ts-expect-error a drain has a time or none
client.disconnect({ drain: "slowly" });
expectTypeOf(client.stats().lateAnswers).toEqualTypeOf<number>();
expectTypeOf(client.stats().waitingCalls).toEqualTypeOf<number>();
expectTypeOf<IPCClientConfig["waitForService"]>().toEqualTypeOf<boolean | number | undefined>();
expectTypeOf<CallOptions["waitForService"]>().toEqualTypeOf<boolean | number | undefined>();
expectTypeOf(server.stats()?.users).toEqualTypeOf<UserStats[] | undefined>();
expectTypeOf<UserStats["uid"]>().toEqualTypeOf<number | undefined>();
expectTypeOf(server.stats()?.counters).toEqualTypeOf<Record<string, number> | undefined>();
expectTypeOf(client.isConnected()).toEqualTypeOf<boolean>();
expectTypeOf(client.getRegisteredMethods()).toEqualTypeOf<string[]>();
expectTypeOf(client.getStatus().pendingRequests).toEqualTypeOf<number>();
expectTypeOf(currentContext()).toEqualTypeOf<IPCContext | undefined>();

// Handlers: parameters are any, contexts are contexts; async or not; narrower parameters are the user's business.
client.registerMethod("a", async (params, context) => {
  expectTypeOf(params).toBeAny();
  expectTypeOf(context).toEqualTypeOf<IPCContext>();
  return [{ id: params.userId }];
});
client.registerMethod("b", () => 7);
client.registerMethod("c", async ({ id }: { id: string }) => id);
const handler: MethodHandler = async (params, context) => context.chain.length + params;
client.registerMethod("d", handler);
client.unregisterMethod("d");
client.registerMethod("f", async ({ url }, { signal }) => {
  expectTypeOf(signal).toEqualTypeOf<AbortSignal | undefined>();
  signal?.addEventListener("abort", () => {});
  return await client.call("a", "b", url, { signal });
});
// @ts-expect-error a handler is a function
client.registerMethod("e", 7);

// Calls: the type argument is the type of the result.
interface User {
  id: string;
  name: string;
}
expectTypeOf(client.call<User>("user-service", "getUser", { id: "1" })).toEqualTypeOf<Promise<User>>();
expectTypeOf(await client.call("user-service", "getUser", { id: "1" })).toBeAny();
declare const context: IPCContext;
await client.call("a", "b", {}, context);
await client.call("a", "b", {}, { timeout: 5, signal: AbortSignal.timeout(5), context });
const options: CallOptions = { timeout: 5 };
await client.call("a", "b", {}, options);
// @ts-expect-error a timeout is a number
await client.call("a", "b", {}, { timeout: "soon" });
// @ts-expect-error a service is named by a string
await client.call(7, "b", {});

// A façade: types flow from an interface.
interface UserApi {
  getUserById(params: { id: string }): Promise<User>;
  count(): number;
  find(params?: { name: string }): Promise<User[]>;
  label: string;
}
const users = client.service<UserApi>("user-service");
expectTypeOf(users).toEqualTypeOf<Service<UserApi>>();
expectTypeOf(users.getUserById({ id: "1" })).toEqualTypeOf<Promise<User>>();
expectTypeOf(users.getUserById({ id: "1" }, { timeout: 100 })).toEqualTypeOf<Promise<User>>();
expectTypeOf(users.count()).toEqualTypeOf<Promise<number>>();
expectTypeOf(users.find()).toEqualTypeOf<Promise<User[]>>();
expectTypeOf(users.find({ name: "Ada" })).toEqualTypeOf<Promise<User[]>>();
// @ts-expect-error the parameters are those of the interface
users.getUserById({ id: 7 });
// @ts-expect-error and required where it says so
users.getUserById();
// @ts-expect-error no such method
users.missing();
// @ts-expect-error a property is no method
users.label();
/** A class is as good as an interface. */
class Orders {
  async list(params: { userId: string }): Promise<number[]> {
    return [params.userId.length];
  }
}
expectTypeOf(client.service<Orders>("orders").list({ userId: "1" })).toEqualTypeOf<Promise<number[]>>();

// Notifications.
expectTypeOf(client.notify("audit", "record", "line")).toEqualTypeOf<Promise<void>>();
expectTypeOf(client.notify("audit", "record", "line", { timeout: 5 })).toEqualTypeOf<Promise<void>>();
const audit = client.notifier<UserApi>("audit");
expectTypeOf(audit).toEqualTypeOf<Notifier<UserApi>>();
expectTypeOf(audit.getUserById({ id: "1" })).toEqualTypeOf<Promise<void>>();
expectTypeOf(audit.count(undefined, context)).toEqualTypeOf<Promise<void>>();
// @ts-expect-error the parameters are those of the interface
audit.getUserById({ id: 7 });
// @ts-expect-error a property is no method
audit.label();

// Events.
client.on("gateway-draining", () => {});
server.on("started", ({ socketPath }) => expectTypeOf(socketPath).toEqualTypeOf<string>());
server.on("stopped", () => {});
server.on("service-registered", ({ serviceName, methods, version, metadata }) => {
  expectTypeOf(serviceName).toEqualTypeOf<string>();
  expectTypeOf(methods).toEqualTypeOf<string[]>();
  expectTypeOf(version).toEqualTypeOf<string | undefined>();
  expectTypeOf(metadata).toExtend<object | undefined>();
});
server.once("service-disconnected", ({ serviceName }) => expectTypeOf(serviceName).toEqualTypeOf<string>());
server.addListener("call-routed", (event) => {
  expectTypeOf(event).toExtend<{ from: string; to: string; method: string; requestId: string; context: IPCContext }>();
});
server.prependListener("response-routed", ({ status }) => expectTypeOf(status).toEqualTypeOf<ResponseStatus>());
server.on("error", (error) => expectTypeOf(error).toEqualTypeOf<Error>());
server.on("log", ({ message, timestamp }) =>
  expectTypeOf([message, timestamp] as const).toEqualTypeOf<readonly [string, number]>(),
);
client
  .on("connected", () => {})
  .on("disconnected", () => {})
  .on("registered", () => {});
client.on("method-executed", ({ method, requestId, success, error }) => {
  expectTypeOf([method, requestId, success, error] as const).toEqualTypeOf<
    readonly [string, string, boolean, string | undefined]
  >();
});
client.on("response-received", ({ requestId, success }) => {
  expectTypeOf([requestId, success] as const).toEqualTypeOf<readonly [string, boolean]>();
});
client.on("gateway-error", ({ message, code, stack }) => {
  expectTypeOf([message, code, stack] as const).toEqualTypeOf<readonly [string, string, string | undefined]>();
});
client.on("log", ({ serviceName }) => expectTypeOf(serviceName).toEqualTypeOf<string>());
client.off("connected", () => {});
client.on("an event of a subclass", (anything) => expectTypeOf(anything).toBeAny());
// @ts-expect-error the payload has no such member
server.on("started", ({ port }) => port);
// @ts-expect-error listeners are functions
client.on("connected", 7);
for await (const { method } of client.eventsOf("method-executed", { signal: AbortSignal.timeout(1) })) {
  expectTypeOf(method).toEqualTypeOf<string>();
}

// Errors.
const error = new IPCError("text", IPCErrorCode.TIMEOUT, { any: "details" });
expectTypeOf(error).toExtend<Error>();
expectTypeOf(error.code).toEqualTypeOf<string>();
new IPCError("text", "MY_OWN");
if (error.code === IPCErrorCode.SERVICE_NOT_FOUND || error.code === "TIMEOUT") console.error(error.message);
try {
  await client.connect();
} catch (error) {
  if (error instanceof IPCError) expectTypeOf(error.code).toEqualTypeOf<string>();
}

// IPCUtils.
expectTypeOf(IPCUtils.createContext("a", 5)).toEqualTypeOf<IPCContext>();
expectTypeOf(IPCUtils.extendContext(context, "a")).toEqualTypeOf<IPCContext>();
expectTypeOf(IPCUtils.serialize(IPCUtils.createCallMessage("a", "b", "c", {}, context))).toExtend<Buffer>();
expectTypeOf(IPCUtils.splitMessages(Buffer.alloc(0)).remaining).toExtend<Buffer>();
expectTypeOf(IPCUtils.createTimeoutPromise(1)).toEqualTypeOf<Promise<never>>();
declare const unknownValue: unknown;
if (IPCUtils.validateContext(unknownValue)) expectTypeOf(unknownValue).toEqualTypeOf<IPCContext>();
if (IPCUtils.validateMessage(unknownValue)) expectTypeOf(unknownValue).toEqualTypeOf<IPCMessage>();

// Life cycle.
expectTypeOf(client[Symbol.asyncDispose]()).toEqualTypeOf<Promise<void>>();
async function scoped(): Promise<void> {
  await using gateway = new IPCServer({ socketPath: "/tmp/x.sock" });
  await gateway.start();
}
await scoped();
