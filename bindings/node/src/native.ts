import { IPCError, IPCErrorCode } from "./errors";
import { loadAddon } from "./loader";

/** A client of the addon. Opaque; ends when it is collected. */
export type NativeClient = { readonly native: "client" };
/** A gateway of the addon. Opaque. */
export type NativeGateway = { readonly native: "gateway" };

/** What the addon exports. Functions that can fail give the text of an error, see {@link checked}. */
export interface Addon {
  /** The records of the batch that is being dispatched; see `native/src/batch.rs`. */
  readonly records: Int32Array;
  /** The values of that batch which were taken apart; see `native/src/tape.rs`. */
  readonly tape: Int32Array;
  /** Their fractions. */
  readonly doubles: Float64Array;
  createClient(options: string, dispatch: Dispatch, drain: () => void): NativeClient | string;
  /** Something was queued: `drain` will be called before the event loop waits, or at the end of the present dispatch. */
  arm(client: NativeClient): void;
  /** Hands over what was queued; gives -1 when it makes no sense. */
  submit(
    client: NativeClient,
    count: number,
    commands: Int32Array,
    text: string,
    bytes: Uint8Array | undefined,
    bytesLength: number,
    large: unknown[],
    tape: Int32Array,
    tapeLength: number,
    doubles: Float64Array,
    doublesLength: number,
  ): -1 | undefined;
  connect(client: NativeClient): void;
  disconnect(client: NativeClient): void;
  /** Takes no more requests; an event tells when those in work have ended. */
  finishRequests(client: NativeClient): void;
  registerMethod(client: NativeClient, name: string, handler: number): string | undefined;
  unregisterMethod(client: NativeClient, name: string): void;
  addRoute(client: NativeClient, service: string, method: string): number;
  /** The number of a shape, whose keys are an array as JSON; -1 where there is no room. */
  addShape(keys: string): number;
  /** Code can be compiled: values may come on the tape. */
  useTape(): void;
  setWantsIds(client: NativeClient, wanted: 0 | 1): void;
  clientStats(client: NativeClient): string;
  /** 1 where a service can be called although the gateway is away: there is a lane to it. */
  canCall(client: NativeClient, service: string): 0 | 1;
  startGateway(options: string, callback: (events: string) => void): NativeGateway | string;
  stopGateway(gateway: NativeGateway): void;
  setGatewayEvents(gateway: NativeGateway, mask: number): void;
  gatewayServices(gateway: NativeGateway): string | undefined;
  gatewayService(gateway: NativeGateway, name: string): string | undefined;
  gatewayStats(gateway: NativeGateway): string | undefined;
  /** How many rules it has now; undefined when the gateway has stopped. */
  reloadPolicy(gateway: NativeGateway): number | string | undefined;
}

/** Takes one batch: how many records, their JSON, their msgpack, their long values, the strings of the tape, shapes that are new. */
export type Dispatch = (
  count: number,
  text: string | undefined,
  bytes: Buffer | undefined,
  large: (string | Buffer)[] | undefined,
  pieces: string[] | undefined,
  definitions: string | undefined,
) => void;

/** Numbers in a record: kind with flags, three that depend on the kind, offset and length of a msgpack value, the caller of a request. */
export const RECORD_INTS = 7;
export const enum RecordKind {
  /** slot, generation. Elements: the request id if wanted, the result. */
  Result = 1,
  /** slot, generation. Elements: the request id if wanted, the error. */
  Failure = 2,
  /** slot, generation, handler, and at the end the caller, -1 where nobody vouches for it. Elements: the context, the request id if wanted, the parameters. */
  Request = 3,
  /** slot, generation. Elements: the reason. */
  Expired = 4,
  /** Elements: the event. */
  Event = 5,
  /** number. Elements: the name of the caller that has this number from now on. */
  Caller = 6,
}

/** Numbers of a command; see `native/src/commands.rs`. */
export const COMMAND_INTS = 11;
export const enum CommandKind {
  Call = 1,
  Result = 2,
  Failure = 3,
  Cancel = 4,
  Notify = 5,
}

/** Flags beside the kind, of records and commands alike. */
export const enum Flag {
  KindMask = 0xff,
  /** There is no value. */
  Absent = 1 << 8,
  /** JSON text of its own. */
  Large = 1 << 9,
  /** A string of its own that is the value. */
  Plain = 1 << 10,
  /** msgpack among the bytes. */
  Msgpack = 1 << 11,
  /** msgpack of its own. */
  LargeMsgpack = 1 << 12,
  /** Binary values may stand in the JSON. */
  Binary = 1 << 13,
  /** The value is on the tape. */
  Tape = 1 << 14,
  /** The context of a request is on the tape. */
  TapeContext = 1 << 15,
  /** Nobody waits for the answer to the request. */
  Notification = 1 << 16,
}

/** What stands on the tape for a value; positive: a string of so many characters. See `native/src/tape.rs`. */
export const enum Tag {
  Empty = 0,
  Null = -1,
  True = -2,
  False = -3,
  /** The number follows. */
  Int = -4,
  /** The next of the fractions. */
  Double = -5,
  /** The number of elements follows, then these. */
  Array = -6,
  /** The number of the shape follows, then the values of its keys. */
  Object = -7,
}

/** Values above this travel as strings or buffers of their own: characters or bytes. */
export const LARGE = 64 * 1024;

/** An error as the addon tells it. */
export interface NativeFailure {
  message: string;
  code?: string;
  stack?: string;
  origin?: "local" | "gateway" | "service";
}

/** What the addon tells that is neither a result nor a request; see `native/src/events.rs`. */
export type SessionEvent =
  | { event: "connected" | "registered" | "already-connected" | "gateway-draining" }
  | { event: "drained"; in_work: number }
  | { event: "disconnected"; reason: string }
  | { event: "reconnecting"; attempt: number; delay_ms: number; error: NativeFailure }
  | { event: "connect-failed" | "gateway-error" | "error"; error: NativeFailure };

let loaded: Addon | undefined;

/** The addon, loaded when it is first needed. */
export function addon(): Addon {
  loaded ??= loadAddon() as Addon;
  return loaded;
}

/** Throws what a function of the addon gave, if that is an error. */
export function checked<T>(result: T | string): T {
  if (typeof result !== "string") return result;
  const { message, code } = JSON.parse(result) as NativeFailure;
  throw new IPCError(message, code ?? IPCErrorCode.INTERNAL_ERROR);
}
