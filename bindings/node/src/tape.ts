import { type Addon, Tag } from "./native";

/** Strings up to this length go onto the tape, in UTF-16 units. */
const STRING_LENGTH_MAX = 4096;
/** Strings of one value together. */
const TEXT_LENGTH_MAX = 64 * 1024;
/** Numbers on the tape for one value. */
const VALUE_INTS_MAX = 4096;
/** Room for what is written before the next look at {@link VALUE_INTS_MAX}. */
const VALUE_INTS_SLACK = 8;
const DEPTH_MAX = 24;
/** Whole numbers beyond it are written by `JSON.stringify`, which rounds them. */
const EXACT_MAX = 2 ** 53;
/** How often an object must come before its keys get a number. */
const SIGHTINGS = 16;
/** Keys that are remembered, in the places in which they stood. With more, all are forgotten: then keys are values, as in dictionaries. */
const PLACES_MAX = 4096;
/** After a value that was not for the tape, so many others are not tried, at most: twice as many each time, until one was. */
const UNTRIED_MAX = 63;
/** Longer keys get no place. */
const KEY_LENGTH_MAX = 256;
const REFUSED = -1;
/** Room for fractions at the beginning. */
const DOUBLES = 64;
/** Numbers above which memory is given back after it was handed over. */
const TAPE_KEPT = 64 * 1024;

/** Reads the values of a batch, one after the other. */
export interface TapeReader {
  /** Compiles shapes: a JSON array of arrays, each a number and the keys. */
  define(definitions: string): void;
  /** Begins with a batch whose strings are in these pieces. */
  begin(pieces: string[] | undefined): void;
  /** The next value. */
  read(): unknown;
}

/** Whether code can be made from strings; `--disallow-code-generation-from-strings` forbids it. */
export function canCompile(): boolean {
  try {
    return new Function("return true")() === true;
  } catch {
    return false;
  }
}

/**
 * Makes the values that the native side has taken apart; see `native/src/tape.rs`. For every list of keys there is a function of its
 * own: the engine knows what it makes, which is why this is several times as fast as `JSON.parse`.
 */
export function tapeReader({ tape, doubles }: Addon): TapeReader {
  const makers: (() => unknown)[] = [];
  let pieces: string[] | undefined;
  let nextPiece = 0;
  let text = "";
  let textAt = 0;
  let tapeAt = 0;
  let doubleAt = 0;

  const read = (): unknown => {
    const tag = tape[tapeAt++]!;
    if (tag > 0) {
      if (textAt === text.length) {
        text = pieces![nextPiece++]!;
        textAt = 0;
      }
      const start = textAt;
      textAt += tag;
      return text.substring(start, textAt);
    }
    switch (tag) {
      case Tag.Empty:
        return "";
      case Tag.Object:
        return makers[tape[tapeAt++]!]!();
      case Tag.Int:
        return tape[tapeAt++];
      case Tag.Double:
        return doubles[doubleAt++];
      case Tag.Null:
        return null;
      case Tag.True:
        return true;
      case Tag.False:
        return false;
      default: {
        const count = tape[tapeAt++]!;
        const array: unknown[] = [];
        for (let at = 0; at < count; at++) array.push(read());
        return array;
      }
    }
  };

  return {
    define(definitions) {
      for (const [number, ...keys] of JSON.parse(definitions) as [number, ...string[]][]) {
        const members = keys.map((key) => `${JSON.stringify(key)}: read()`).join(", ");
        makers[number] = new Function("read", `return () => ({ ${members} })`)(read);
      }
    },
    begin(given) {
      pieces = given;
      nextPiece = 0;
      text = "";
      textAt = 0;
      tapeAt = 0;
      doubleAt = 0;
    },
    read,
  };
}

/** Where the keys of an object have led so far; by the next key. */
class Place extends Map<string, Place> {
  /** The key that came last, usually the one that comes next, and where it leads. */
  latestKey: string | undefined = undefined;
  latest: Place | undefined = undefined;
  /** Where objects begin that are values of the last key, so that what comes next is nearly always what came last time. */
  inner: Place | undefined = undefined;
  /** The number of the shape that ends here. */
  shape = REFUSED;
  seen = 0;

  constructor(
    private readonly before?: Place,
    private readonly key?: string,
  ) {
    super();
  }

  /** The keys that led here. */
  way(): string[] {
    const keys: string[] = [];
    for (let place: Place = this; place.before !== undefined; place = place.before) keys.push(place.key!);
    return keys.reverse();
  }
}

const objectPrototype = Object.prototype;
const EMPTY = {};

/**
 * Takes values apart, as the native side wants them to write their JSON; see `native/src/fold.rs`. What it does not take is for
 * `JSON.stringify`: class instances, dates, binary values, long texts, what comes seldom.
 */
export class TapeWriter {
  tape = new Int32Array(0);
  length = 0;
  doubles = new Float64Array(0);
  doublesLength = 0;
  /** The strings of the value that was written last. */
  text = "";
  /** A value is being written: one of its getters may be running. */
  isWriting = false;
  private limit = 0;
  private start = new Place();
  private places = 0;
  private untried = 0;
  private untriedNext = 0;
  private isLearning = false;

  constructor(private readonly addon: () => Addon) {}

  /** Appends a value. False when it is not for the tape; then nothing has changed. */
  write(value: unknown): boolean {
    if (this.untried > 0) {
      this.untried--;
      return false;
    }
    if (this.isWriting) return false;
    // Keys that all objects inherit would be taken for their own.
    for (const _ in EMPTY) return false;
    const { length, doublesLength } = this;
    if (length + VALUE_INTS_MAX > this.tape.length) this.makeRoom();
    this.limit = length + VALUE_INTS_MAX - VALUE_INTS_SLACK;
    this.text = "";
    this.isLearning = false;
    this.isWriting = true;
    let isWritten = false;
    try {
      isWritten = this.append(value, 0, this.start) && this.text.length <= TEXT_LENGTH_MAX;
    } catch {
      // A getter has thrown: `JSON.stringify` tells.
    }
    this.isWriting = false;
    if (isWritten) {
      this.untriedNext = 0;
      return true;
    }
    this.length = length;
    this.doublesLength = doublesLength;
    if (!this.isLearning) {
      this.untriedNext = Math.min(2 * this.untriedNext + 1, UNTRIED_MAX);
      this.untried = this.untriedNext;
    }
    return false;
  }

  /** Forgets what was handed over, and memory beyond the usual. */
  clear(): void {
    this.length = 0;
    this.doublesLength = 0;
    this.text = "";
    if (this.tape.length > TAPE_KEPT) this.tape = new Int32Array(0);
    if (this.doubles.length > TAPE_KEPT) this.doubles = new Float64Array(0);
  }

  /** `place` is that of the key whose value this is, or stands in. */
  private append(value: unknown, depth: number, place: Place): boolean {
    switch (typeof value) {
      case "string":
        if (value.length > STRING_LENGTH_MAX) return false;
        this.tape[this.length++] = value.length;
        this.text += value;
        return true;
      case "number":
        return this.appendNumber(value);
      case "boolean":
        this.tape[this.length++] = value ? Tag.True : Tag.False;
        return true;
      case "object":
        if (value === null) {
          this.tape[this.length++] = Tag.Null;
          return true;
        }
        if (depth === DEPTH_MAX || (value as { toJSON?: unknown }).toJSON !== undefined) return false;
        return Array.isArray(value) ? this.appendArray(value, depth, place) : this.appendObject(value, depth, place);
      default:
        return false;
    }
  }

  private appendNumber(value: number): boolean {
    // Also -0, which JSON.stringify writes as 0.
    if ((value | 0) === value) {
      this.tape[this.length++] = Tag.Int;
      this.tape[this.length++] = value;
      return true;
    }
    if ((value >= EXACT_MAX || value <= -EXACT_MAX) && Number.isInteger(value)) return false;
    if (this.doublesLength === this.doubles.length) {
      const larger = new Float64Array(Math.max(DOUBLES, this.doubles.length * 2));
      larger.set(this.doubles);
      this.doubles = larger;
    }
    this.tape[this.length++] = Tag.Double;
    this.doubles[this.doublesLength++] = value;
    return true;
  }

  private appendArray(array: unknown[], depth: number, place: Place): boolean {
    const count = array.length;
    this.tape[this.length++] = Tag.Array;
    this.tape[this.length++] = count;
    for (let at = 0; at < count; at++) {
      if (this.length > this.limit) return false;
      const element = array[at];
      if (element === undefined) this.tape[this.length++] = Tag.Null;
      else if (!this.append(element, depth + 1, place)) return false;
    }
    return true;
  }

  private appendObject(object: object, depth: number, outer: Place): boolean {
    const prototype = Object.getPrototypeOf(object);
    if (prototype !== objectPrototype && prototype !== null) return false;
    this.tape[this.length++] = Tag.Object;
    const shapeAt = this.length++;
    let place = outer.inner ?? this.lead(outer);
    for (const key in object) {
      const value = (object as Record<string, unknown>)[key];
      if (value === undefined) continue;
      if (this.length > this.limit) return false;
      const next = place.latestKey === key ? place.latest : this.follow(place, key);
      if (next === undefined || !this.append(value, depth + 1, next)) return false;
      place = next;
    }
    if (place.shape === REFUSED && !this.learn(place)) return false;
    this.tape[shapeAt] = place.shape;
    return true;
  }

  private follow(place: Place, key: string): Place | undefined {
    let next = place.get(key);
    if (next === undefined) {
      if (key.length > KEY_LENGTH_MAX) return undefined;
      if (this.places >= PLACES_MAX) {
        this.start = new Place();
        this.places = 0;
        return undefined;
      }
      this.places++;
      next = new Place(place, key);
      place.set(key, next);
    }
    place.latestKey = key;
    place.latest = next;
    return next;
  }

  /** Objects begin below a place for the first time. */
  private lead(place: Place): Place {
    this.places++;
    place.inner = new Place();
    return place.inner;
  }

  /** Gives the keys that led to a place a number, once they have come often enough. */
  private learn(place: Place): boolean {
    place.seen++;
    this.isLearning = place.seen < SIGHTINGS;
    if (place.seen !== SIGHTINGS) return false;
    place.shape = this.addon().addShape(JSON.stringify(place.way()));
    return place.shape !== REFUSED;
  }

  private makeRoom(): void {
    const larger = new Int32Array(Math.max(2 * this.tape.length, 2 * VALUE_INTS_MAX));
    larger.set(this.tape.subarray(0, this.length));
    this.tape = larger;
  }
}
