import { encodeJson, encodeMsgpack } from "./codec";
import { addon, COMMAND_INTS, CommandKind, Flag, LARGE, type NativeClient } from "./native";
import { TapeWriter } from "./tape";
import type { Serializer } from "./types";

/** Room for this many commands at the beginning. */
const COMMANDS = 64;
const STAGED_BYTES = 4096;
/** Commands, and bytes, above which the memory is given back after it was handed over. */
const COMMANDS_KEPT = 4096;
const STAGED_BYTES_KEPT = 256 * 1024;

/**
 * What is to be sent, until the event loop takes it over in one crossing: one string of all texts, one array of numbers. The native
 * side asks for it (`drain`) after it has called JavaScript, or before the loop waits.
 */
export class CommandQueue {
  private count = 0;
  private commands = new Int32Array(COMMANDS * COMMAND_INTS);
  private text = "";
  private staged: Uint8Array | undefined;
  private stagedLength = 0;
  private large: unknown[] = [];
  private readonly tape = new TapeWriter(addon);
  private isArmed = false;
  // What `encode` left for the command that follows.
  private flags = 0;
  private length = 0;
  private encoded = "";

  constructor(
    private readonly native: () => NativeClient,
    private readonly serializer: Serializer,
  ) {}

  /** Queues a call or a notification. Throws when the parameters cannot be sent; then nothing is queued. */
  call(
    kind: CommandKind.Call | CommandKind.Notify,
    slot: number,
    generation: number,
    route: number,
    routeText: string,
    params: unknown,
    timeoutMs: number,
    waitMs: number,
    parentSlot: number,
    parentGeneration: number,
    contextText: string,
  ): void {
    this.encode(params);
    const at = this.begin(kind, slot, generation);
    const { commands } = this;
    commands[at + 4] = route;
    commands[at + 5] = timeoutMs;
    commands[at + 6] = parentSlot;
    commands[at + 7] = parentGeneration;
    commands[at + 8] = contextText.length;
    commands[at + 9] = routeText.length;
    commands[at + 10] = waitMs;
    // The order in which the native side takes them.
    if (routeText !== "") this.text += routeText;
    if (contextText !== "") this.text += contextText;
    this.text += this.encoded;
  }

  /** Queues the result of a request. Throws when it cannot be sent; then nothing is queued. */
  result(slot: number, generation: number, value: unknown): void {
    this.encode(value);
    this.begin(CommandKind.Result, slot, generation);
    this.text += this.encoded;
  }

  /** Queues the failure of a request. */
  failure(
    slot: number,
    generation: number,
    error: { message: string; code: string; stack?: string | undefined },
  ): void {
    this.encoded = JSON.stringify(error);
    this.flags = 0;
    this.length = this.encoded.length;
    this.begin(CommandKind.Failure, slot, generation);
    this.text += this.encoded;
  }

  /** Queues that nobody waits for a call any more. */
  cancel(slot: number, generation: number): void {
    this.flags = 0;
    this.length = 0;
    this.begin(CommandKind.Cancel, slot, generation);
  }

  /** Hands everything over. */
  readonly drain = (): void => {
    // Asked for by a getter of a value that is being taken apart: it is armed, and will be asked again.
    if (this.tape.isWriting) return;
    this.isArmed = false;
    if (this.count === 0) return;
    const { count, commands, text, staged, stagedLength, large, tape } = this;
    this.count = 0;
    this.text = "";
    this.stagedLength = 0;
    if (large.length > 0) this.large = [];
    const { submit } = addon();
    const native = this.native();
    const values = tape.tape;
    const { length, doubles, doublesLength } = tape;
    const done = submit(
      native,
      count,
      commands,
      text,
      staged,
      stagedLength,
      large,
      values,
      length,
      doubles,
      doublesLength,
    );
    tape.clear();
    if (done === -1) {
      throw new Error("ipc-bro: the native part does not understand what was queued");
    }
    if (count > COMMANDS_KEPT) this.commands = new Int32Array(COMMANDS * COMMAND_INTS);
    if (stagedLength > STAGED_BYTES_KEPT) this.staged = undefined;
  };

  /** Begins a command whose value was encoded; gives the place of its numbers. */
  private begin(kind: CommandKind, slot: number, generation: number): number {
    if (!this.isArmed) {
      this.isArmed = true;
      addon().arm(this.native());
    }
    const at = this.count * COMMAND_INTS;
    if (at === this.commands.length) {
      const larger = new Int32Array(this.commands.length * 2);
      larger.set(this.commands);
      this.commands = larger;
    }
    const { commands } = this;
    commands[at] = kind | this.flags;
    commands[at + 1] = this.length;
    commands[at + 2] = slot;
    commands[at + 3] = generation;
    commands[at + 8] = 0;
    commands[at + 9] = 0;
    this.count++;
    return at;
  }

  private encode(value: unknown): void {
    this.encoded = "";
    this.flags = 0;
    this.length = 0;
    if (value === undefined) return;
    const tapeStart = this.tape.length;
    if (this.serializer === "msgpack") {
      this.stage(encodeMsgpack(value));
    } else if (typeof value === "string" && value.length > LARGE) {
      this.flags = Flag.Large | Flag.Plain;
      this.large.push(value);
    } else if (this.tape.write(value)) {
      this.flags = Flag.Tape;
      this.length = this.tape.length - tapeStart;
      this.encoded = this.tape.text;
    } else {
      const text = encodeJson(value)!;
      if (text.length > LARGE) {
        this.flags = Flag.Large;
        this.large.push(text);
      } else {
        this.encoded = text;
        this.length = text.length;
      }
    }
  }

  private stage(bytes: Buffer): void {
    if (bytes.length > LARGE) {
      this.flags = Flag.Large | Flag.Msgpack;
      this.large.push(bytes);
      return;
    }
    const end = this.stagedLength + bytes.length;
    if (this.staged === undefined || this.staged.length < end) {
      const larger = new Uint8Array(Math.max(STAGED_BYTES, 2 * end));
      if (this.staged !== undefined) larger.set(this.staged.subarray(0, this.stagedLength));
      this.staged = larger;
    }
    this.staged.set(bytes, this.stagedLength);
    this.stagedLength = end;
    this.flags = Flag.Msgpack;
    this.length = bytes.length;
  }
}
