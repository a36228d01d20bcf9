/** A call that waits for its end. */
export interface PendingCall {
  readonly resolve: (value: any) => void;
  readonly reject: (error: Error) => void;
  readonly service: string;
  readonly method: string;
  /** Takes the listener off the caller's signal. */
  release: (() => void) | undefined;
}

/** Calls by slot. A slot is used again with another generation, so that what comes late for a call is recognised. */
export class PendingCalls {
  private readonly calls: (PendingCall | undefined)[] = [];
  private readonly generations: number[] = [];
  private readonly free: number[] = [];
  private taken = 0;

  get size(): number {
    return this.taken;
  }

  /** Gives the slot; its generation is {@link generationOf} it. */
  add(call: PendingCall): number {
    this.taken++;
    const slot = this.free.pop();
    if (slot === undefined) {
      this.generations.push(0);
      return this.calls.push(call) - 1;
    }
    this.calls[slot] = call;
    return slot;
  }

  generationOf(slot: number): number {
    return this.generations[slot]!;
  }

  /** Takes a call out; `undefined` when it has ended already. */
  take(slot: number, generation: number): PendingCall | undefined {
    const call = this.calls[slot];
    if (call === undefined || this.generations[slot] !== generation) return undefined;
    this.calls[slot] = undefined;
    // Stays a small integer, and wraps.
    this.generations[slot] = (generation + 1) & 0x3fff_ffff;
    this.free.push(slot);
    this.taken--;
    return call;
  }
}

/** What settles the promise that was made last by `new Promise(settlers.take)`: no closure is made for each. */
export class Settlers {
  resolve!: (value: any) => void;
  reject!: (error: Error) => void;
  readonly take = (resolve: (value: any) => void, reject: (error: Error) => void): void => {
    this.resolve = resolve;
    this.reject = reject;
  };
}
