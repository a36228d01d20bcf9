// A CommonJS program, and a framework on top: the NestJS-like consumer.
import ipc = require("ipc-bro");

import type { IPCClientConfig, IPCContext, IPCServerConfig, MethodHandler } from "ipc-bro";
import { IPCClient, IPCServer } from "ipc-bro";

class ModuleClient extends IPCClient {
  constructor(private readonly options: IPCClientConfig & { label?: string }) {
    super(options);
    this.on("connected", () => this.emit("module-ready", this.options.label));
  }

  override async connect(): Promise<void> {
    await super.connect();
  }

  override registerMethod(name: string, handler: MethodHandler): void {
    super.registerMethod(name, async (params: unknown, context: IPCContext) => handler(params, context));
  }

  override call<T = unknown>(service: string, method: string, params?: unknown, context?: IPCContext): Promise<T> {
    return super.call<T>(service, method, params, context);
  }
}

class ModuleServer extends IPCServer {
  constructor(options: Partial<IPCServerConfig>) {
    super(options);
  }
}

type Constructor<T> = new (...args: never[]) => T;
interface Provider<T> {
  provide: symbol | Constructor<T>;
  useFactory: () => T;
}
const providers: Provider<IPCClient | IPCServer>[] = [
  { provide: ModuleClient, useFactory: () => new ModuleClient({ serviceName: "a", gatewayPath: "/tmp/x.sock" }) },
  { provide: Symbol("server"), useFactory: () => new ModuleServer({ socketPath: "/tmp/x.sock" }) },
];
const client: IPCClient = new ModuleClient({ serviceName: "a", gatewayPath: "/tmp/x.sock" });
const same: typeof ipc.IPCClient = IPCClient;
const isClient = (value: unknown): value is IPCClient => value instanceof same;

export = { providers, isClient, client };
