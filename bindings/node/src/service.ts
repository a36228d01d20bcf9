import type { CallOptions, IPCContext } from "./types";

/**
 * What a caller sees of a service whose methods are declared in an interface: each takes its parameters and, if wanted, a context
 * or options, and gives a promise.
 */
export type Service<Api> = {
  readonly [Name in keyof Api as Api[Name] extends (...args: any[]) => any ? Name : never]: Api[Name] extends (
    ...args: infer Args
  ) => infer Result
    ? Args extends []
      ? (params?: undefined, contextOrOptions?: IPCContext | CallOptions) => Promise<Awaited<Result>>
      : undefined extends Args[0]
        ? (params?: Args[0], contextOrOptions?: IPCContext | CallOptions) => Promise<Awaited<Result>>
        : (params: Args[0], contextOrOptions?: IPCContext | CallOptions) => Promise<Awaited<Result>>
    : never;
};

/** What a caller sees of a service that it only notifies: the same methods, without results. */
export type Notifier<Api> = {
  readonly [Name in keyof Service<Api>]: Service<Api>[Name] extends (...args: infer Args) => any
    ? (...args: Args) => Promise<void>
    : never;
};

/** How a façade hands on what its methods are called with. */
type Send = (method: string, params: unknown, contextOrOptions?: IPCContext | CallOptions) => Promise<unknown>;

type Method = (params?: unknown, contextOrOptions?: IPCContext | CallOptions) => Promise<unknown>;

/** An object whose methods are those of a service. They are made when they are first named. */
export function facadeOf<Facade>(send: Send): Facade {
  const methods = new Map<string, Method>();
  return new Proxy(Object.create(null), {
    get(_, name) {
      // What `await`, `console.log` and the like ask of any object is no method of a service.
      if (typeof name !== "string" || name === "then" || name === "toJSON") return undefined;
      let method = methods.get(name);
      if (method === undefined) {
        method = (params, contextOrOptions) => send(name, params, contextOrOptions);
        methods.set(name, method);
      }
      return method;
    },
  }) as Facade;
}
