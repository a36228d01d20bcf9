import { messageOf } from "./codec";
import { Running, running } from "./context";
import { IPCError, IPCErrorCode } from "./errors";
import { codeOf, stackOf } from "./failures";
import { addon, Flag } from "./native";
import type { CommandQueue } from "./queue";
import { attach, Sight, sightOf } from "./signal";
import type { IPCContext, MethodHandler } from "./types";

/** A method that others may call. */
interface Handler {
  readonly method: string;
  readonly handler: MethodHandler;
  readonly sight: Sight;
}

/** Who is told what becomes of requests. */
interface RequestListener {
  log(message: string, data: unknown): void;
  /** A request whose id is wanted has ended; `error` says why it did not succeed. */
  executed(method: string, requestId: string, error: string | undefined): void;
}

/** The methods that others may call, and the calls of them that are being worked on. */
export class Requests {
  /** By the number that the native side knows a method by. Numbers are not used again. */
  private readonly handlers: (Handler | undefined)[] = [];
  private readonly numbers = new Map<string, number>();
  private nextNumber = 0;
  /** By the slot that the native side gave them. */
  private readonly requests: (Running | undefined)[] = [];
  /** The names of callers, by the numbers that the native side gives them for a while. */
  private readonly callers: string[] = [];

  constructor(
    private readonly owner: object,
    private readonly queue: CommandQueue,
    private readonly tracksContext: boolean,
    private readonly listener: RequestListener,
  ) {}

  get methods(): string[] {
    return [...this.numbers.keys()];
  }

  get methodCount(): number {
    return this.numbers.size;
  }

  /** Has a handler answer calls of a method. One that is new is told to the native side by `register`, which may refuse it by throwing. */
  add(method: string, handler: MethodHandler, register: (number: number) => void): void {
    const known = this.numbers.get(method);
    const number = known ?? this.nextNumber++;
    if (known === undefined) {
      register(number);
      this.numbers.set(method, number);
    }
    this.handlers[number] = { method, handler, sight: sightOf(handler) };
  }

  /** False when there was no such method. */
  remove(method: string): boolean {
    const number = this.numbers.get(method);
    if (number === undefined) return false;
    this.numbers.delete(method);
    this.handlers[number] = undefined;
    return true;
  }

  /** The caller that has a number from now on. */
  nameCaller(number: number, name: string): void {
    this.callers[number] = name;
  }

  /** Runs the handler of a request. */
  receive(
    slot: number,
    generation: number,
    context: IPCContext,
    value: (base: number) => unknown,
    base: number,
    requestId: string | undefined,
  ): void {
    const { records } = addon();
    const number = records[base + 3]!;
    const entry = number === -1 ? undefined : this.handlers[number];
    const method = entry?.method ?? "";
    const wantsAnswer = (records[base]! & Flag.Notification) === 0;
    const callerNumber = records[base + 6]!;
    const caller = callerNumber === -1 ? undefined : this.callers[callerNumber];
    const request = new Running(this.owner, context, slot, generation, method, requestId, wantsAnswer, caller);
    this.requests[slot] = request;
    if (entry !== undefined && entry.sight !== Sight.Fields) attach(context, request, entry.sight);
    let outcome: unknown;
    try {
      const params = value(base);
      if (entry === undefined) throw new IPCError("the method was just removed", IPCErrorCode.METHOD_NOT_FOUND);
      const { handler } = entry;
      outcome = this.tracksContext ? running.run(request, handler, params, context) : handler(params, context);
      if (
        typeof outcome === "object" &&
        outcome !== null &&
        typeof (outcome as PromiseLike<unknown>).then === "function"
      ) {
        (outcome as PromiseLike<unknown>).then(
          (result) => this.answer(request, result),
          (error) => this.fail(request, error),
        );
        return;
      }
    } catch (error) {
      this.fail(request, error);
      return;
    }
    this.answer(request, outcome);
  }

  private answer(request: Running, result: unknown): void {
    if (!request.inWork) return;
    try {
      this.queue.result(request.slot, request.generation, request.wantsAnswer ? result : undefined);
    } catch (error) {
      this.fail(request, error);
      return;
    }
    this.finish(request, undefined);
  }

  private fail(request: Running, thrown: unknown): void {
    if (!request.inWork) return;
    const message = messageOf(thrown);
    const { slot, generation } = request;
    if (request.wantsAnswer) {
      this.queue.failure(slot, generation, { message, code: codeOf(thrown), stack: stackOf(thrown) });
    } else {
      this.listener.log("notification failed", { method: request.method, error: message });
      this.queue.result(slot, generation, undefined);
    }
    this.finish(request, message);
  }

  /** A request needs no answer any more: whoever works on it is told, and may go on. */
  expire(slot: number, generation: number, reason: string): void {
    const request = this.requests[slot];
    if (request === undefined || request.generation !== generation) return;
    this.listener.log("request expired", { method: request.method, reason });
    this.finish(request, reason);
    request.giveUp(reason);
  }

  private finish(request: Running, error: string | undefined): void {
    request.inWork = false;
    this.requests[request.slot] = undefined;
    const { method, requestId } = request;
    if (requestId !== undefined) this.listener.executed(method, requestId, error);
  }
}
