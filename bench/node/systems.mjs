// What is measured: every row of the table.

/** The row that the ratios refer to. */
export const REFERENCE = "node-ipc";
/** The row that the goal for one call at a time refers to. */
export const REFERENCE_WITH_RELAY = "node-ipc, relayed";

/**
 * `module` has the code of caller and callee, `carrier` is the process between them, if any: `bro` (the native gateway), `node` (the
 * gateway in a Node process of its own) or `relay` (copies bytes and understands none). With `hasLane` caller and callee are given a lane; without
 * it, gateway and clients are told to have none.
 */
export const SYSTEMS = [
  { name: "ipc-bro", module: "ipc-bro", carrier: "bro", options: {} },
  { name: "ipc-bro, lane", module: "ipc-bro", carrier: "bro", hasLane: true, options: {} },
  { name: "ipc-bro, lane, spinning", module: "ipc-bro", carrier: "bro", hasLane: true, options: { laneSpinUs: 50 } },
  { name: "ipc-bro, no tracking", module: "ipc-bro", carrier: "bro", options: { contextTracking: false } },
  { name: "ipc-bro, msgpack", module: "ipc-bro", carrier: "bro", options: { serializer: "msgpack" } },
  { name: "ipc-bro, IPCServer", module: "ipc-bro", carrier: "node", options: {} },
  { name: REFERENCE, module: "node-ipc", options: { package: "node-ipc" } },
  { name: REFERENCE_WITH_RELAY, module: "node-ipc", carrier: "relay", options: { package: "node-ipc" } },
  { name: "node-ipc 14", module: "node-ipc", options: { package: "node-ipc-14" } },
  { name: "grpc-js", module: "grpc", options: {} },
  { name: "moleculer", module: "moleculer", options: {} },
];

/**
 * What is measured of each, in this order: small calls, objects of the kind `payload`, and a large string. `seconds` and `calls` bound every phase, whichever is
 * reached first.
 */
export function phasesOf(payload) {
  return [
    { name: "warm up", payload, inFlight: 64, seconds: 1, calls: 60_000 },
    { name: "warm up one", payload, inFlight: 1, seconds: 0.3, calls: 3_000 },
    { name: "one", payload, inFlight: 1, seconds: 1, calls: 20_000 },
    { name: "64", payload, inFlight: 64, seconds: 1.5, calls: 500_000 },
    { name: "512", payload, inFlight: 512, seconds: 1.5, calls: 500_000 },
    { name: "warm up small", payload: "small", inFlight: 64, seconds: 0.5, calls: 60_000 },
    { name: "small 64", payload: "small", inFlight: 64, seconds: 1.5, calls: 1_000_000 },
    { name: "small 512", payload: "small", inFlight: 512, seconds: 1.5, calls: 1_000_000 },
    { name: "warm up large", payload: "large", inFlight: 1, seconds: 1, calls: 8 },
    { name: "large", payload: "large", inFlight: 1, seconds: 1.5, calls: 60 },
  ];
}

/** Rounds, and the part of every phase's seconds. */
export const FULL = { rounds: 5, share: 1 };
export const QUICK = { rounds: 2, share: 0.2 };
