// moleculer: two nodes with its own TCP transporter. They know each other's port, and nothing leaves or enters by another address than
// loopback: no discovery by UDP, no listening on other interfaces.
import net from "node:net";
import moleculer from "moleculer";
import { userOf } from "../payload.mjs";

const { ServiceBroker, Transporters } = moleculer;
const LOOPBACK = "127.0.0.1";
/** Its own default lets no message of 1 MiB and its envelope pass. */
const PACKET_BYTES_MAX = 8 * 1024 * 1024;

class LoopbackTcp extends Transporters.TCP {
  getNodeAddress() {
    return LOOPBACK;
  }

  /** The transporter has no option for the address that it listens on. */
  startTcpServer() {
    const { listen } = net.Server.prototype;
    net.Server.prototype.listen = function (options, ...others) {
      return listen.call(this, { ...options, host: LOOPBACK }, ...others);
    };
    try {
      return super.startTcpServer();
    } finally {
      net.Server.prototype.listen = listen;
    }
  }
}

export async function serve({ ports }) {
  const broker = brokerOf("callee", ports);
  const actions = { echo: ({ params }) => params.value, getUserById: ({ params }) => userOf(params) };
  broker.createService({ name: "callee", actions });
  await broker.start();
  return () => broker.stop();
}

export async function connect({ ports }) {
  const broker = brokerOf("caller", ports);
  await broker.start();
  await broker.waitForServices("callee", 20_000, 20);
  const echo = (value) => broker.call("callee.echo", { value });
  const small = (value) => broker.call("callee.getUserById", value);
  return { small, order: echo, flat: echo, large: echo, close: () => broker.stop() };
}

function brokerOf(nodeID, ports) {
  const options = {
    port: ports[nodeID],
    urls: Object.entries(ports).map(([name, port]) => `${LOOPBACK}:${port}/${name}`),
    udpDiscovery: false,
    useHostname: false,
    gossipPeriod: 1,
    maxPacketSize: PACKET_BYTES_MAX,
  };
  return new ServiceBroker({
    nodeID,
    logger: false,
    hotReload: false,
    skipProcessEventRegistration: true,
    transporter: new LoopbackTcp(options),
  });
}
