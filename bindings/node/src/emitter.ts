import { EventEmitter, on } from "node:events";

type Listener = (...payload: any[]) => void;
/** The listener of an event. No intersection with `Listener`: that would make all parameters `any`. */
type ListenerOf<Events, Name extends keyof Events> = Events[Name] extends Listener ? Events[Name] : never;
/** Names that are not in the list of events: subclasses may emit what they like. */
type OtherName<Events, Name> = Name extends keyof Events ? never : Name;

/** Before Node 18.18 there is none: then the method has a symbol that nobody asks for. */
export const asyncDispose: typeof Symbol.asyncDispose = Symbol.asyncDispose ?? Symbol("Symbol.asyncDispose");

/** An `EventEmitter` whose events are typed, and that knows which of them somebody listens to. */
export abstract class TypedEmitter<Events extends object> extends EventEmitter {
  /** Called after listeners were added or removed. */
  protected abstract listenersChanged(): void;

  override on<Name extends keyof Events & string>(event: Name, listener: ListenerOf<Events, Name>): this;
  override on<Name extends string | symbol>(event: OtherName<Events, Name>, listener: Listener): this;
  override on(event: string | symbol, listener: Listener): this {
    super.on(event, listener);
    this.listenersChanged();
    return this;
  }

  override addListener<Name extends keyof Events & string>(event: Name, listener: ListenerOf<Events, Name>): this;
  override addListener<Name extends string | symbol>(event: OtherName<Events, Name>, listener: Listener): this;
  override addListener(event: string | symbol, listener: Listener): this {
    return this.on(event as never, listener as never);
  }

  override prependListener<Name extends keyof Events & string>(event: Name, listener: ListenerOf<Events, Name>): this;
  override prependListener<Name extends string | symbol>(event: OtherName<Events, Name>, listener: Listener): this;
  override prependListener(event: string | symbol, listener: Listener): this {
    super.prependListener(event, listener);
    this.listenersChanged();
    return this;
  }

  override once<Name extends keyof Events & string>(event: Name, listener: ListenerOf<Events, Name>): this;
  override once<Name extends string | symbol>(event: OtherName<Events, Name>, listener: Listener): this;
  override once(event: string | symbol, listener: Listener): this {
    return super.once(event, listener);
  }

  override prependOnceListener<Name extends keyof Events & string>(
    event: Name,
    listener: ListenerOf<Events, Name>,
  ): this;
  override prependOnceListener<Name extends string | symbol>(event: OtherName<Events, Name>, listener: Listener): this;
  override prependOnceListener(event: string | symbol, listener: Listener): this {
    return super.prependOnceListener(event, listener);
  }

  override off<Name extends keyof Events & string>(event: Name, listener: ListenerOf<Events, Name>): this;
  override off<Name extends string | symbol>(event: OtherName<Events, Name>, listener: Listener): this;
  override off(event: string | symbol, listener: Listener): this {
    return this.removeListener(event as never, listener as never);
  }

  override removeListener<Name extends keyof Events & string>(event: Name, listener: ListenerOf<Events, Name>): this;
  override removeListener<Name extends string | symbol>(event: OtherName<Events, Name>, listener: Listener): this;
  override removeListener(event: string | symbol, listener: Listener): this {
    super.removeListener(event, listener);
    this.listenersChanged();
    return this;
  }

  override removeAllListeners(event?: string | symbol): this {
    if (event === undefined) super.removeAllListeners();
    else super.removeAllListeners(event);
    this.listenersChanged();
    return this;
  }

  override emit<Name extends keyof Events & string>(
    event: Name,
    ...payload: Parameters<ListenerOf<Events, Name>>
  ): boolean;
  override emit<Name extends string | symbol>(event: OtherName<Events, Name>, ...payload: any[]): boolean;
  override emit(event: string | symbol, ...payload: any[]): boolean {
    return super.emit(event, ...payload);
  }

  /**
   * The payloads of an event, one after the other, for `for await`. It ends when the loop is left, or when `signal` aborts
   * (then it throws an `AbortError`). What comes faster than the loop takes it is kept: leave the loop when done.
   */
  async *eventsOf<Name extends keyof Events & string>(
    event: Name,
    options?: { signal?: AbortSignal },
  ): AsyncGenerator<Parameters<ListenerOf<Events, Name>>[0], void, undefined> {
    for await (const payload of on(this, event, options)) yield payload[0];
  }

  /** Emits; an exception of a listener surfaces as `uncaughtException`, and nothing here is left half done. */
  protected emitSafely(event: string, ...payload: unknown[]): void {
    try {
      super.emit(event, ...payload);
    } catch (error) {
      process.nextTick(() => {
        throw error;
      });
    }
  }
}
