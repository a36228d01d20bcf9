/** The numbers that the native side knows services with their methods by. */
export class Routes {
  private readonly routes = new Map<string, Map<string, number>>();
  /** The route of the latest call, often that of the next as well. */
  private latest: { service: string; method: string; route: number } = { service: "", method: "", route: -1 };

  constructor(private readonly add: (service: string, method: string) => number) {}

  /** -1 when the native side knows too many. */
  number(service: string, method: string): number {
    const { latest } = this;
    if (latest.service === service && latest.method === method && latest.route !== -1) return latest.route;
    let methods = this.routes.get(service);
    let route = methods?.get(method);
    if (route !== undefined) {
      this.latest = { service, method, route };
      return route;
    }
    route = this.add(service, method);
    if (route === -1) return route;
    if (methods === undefined) {
      methods = new Map();
      this.routes.set(service, methods);
    }
    methods.set(method, route);
    return route;
  }
}
