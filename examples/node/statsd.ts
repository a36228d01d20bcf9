// The part of StatsD that the examples use: counters, gauges and timings, one UDP packet each.
import { createSocket } from "node:dgram";

export class StatsD {
  private readonly socket = createSocket("udp4");
  private readonly port: number;

  constructor(port = Number(process.env.STATSD_PORT ?? 8125)) {
    this.port = port;
    // Statistics are no reason to stay.
    this.socket.unref();
    this.socket.on("error", () => {});
  }

  increment(name: string, tags: Record<string, string | boolean> = {}): void {
    this.send(`${name}:1|c`, tags);
  }

  gauge(name: string, value: number): void {
    this.send(`${name}:${value}|g`);
  }

  timing(name: string, ms: number): void {
    this.send(`${name}:${ms}|ms`);
  }

  private send(line: string, tags: Record<string, string | boolean> = {}): void {
    const pairs = Object.entries(tags).map(([key, value]) => `${key}:${value}`);
    const packet = pairs.length > 0 ? `${line}|#${pairs.join(",")}` : line;
    this.socket.send(packet, this.port, "127.0.0.1");
  }
}
