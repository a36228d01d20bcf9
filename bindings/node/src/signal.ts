import type { Running } from "./context";
import type { IPCContext, MethodHandler } from "./types";

/** As a base class: the fields of a class are added to an object that exists already. */
function given(object: object): object {
  return object;
}
const Given = given as unknown as new (object: object) => object;

/** Marks contexts with their requests. Costs a tenth of a `WeakMap`, and nobody sees it. */
class Marked extends Given {
  readonly #request: Running;

  constructor(context: IPCContext, request: Running) {
    super(context);
    this.#request = request;
  }

  static requestOf(context: object): Running | undefined {
    return #request in context ? context.#request : undefined;
  }
}

/** The request whose context this very object is, if that shows more than its four fields. */
export const requestOf: (context: object) => Running | undefined = Marked.requestOf;

/** What of a context can be seen beside its four fields: bits. */
export const enum Sight {
  Fields = 0,
  Signal = 1,
  Caller = 2,
  All = 3,
}

/** Not enumerable: whoever lists, copies, compares or serialises a context sees its four fields. */
const SIGNAL: PropertyDescriptor = {
  get(this: object) {
    return requestOf(this)?.signal;
  },
  enumerable: false,
  configurable: true,
};

/** The same; it also covers what a peer has called so in its context. */
const CALLER: PropertyDescriptor = {
  get(this: object) {
    return requestOf(this)?.caller;
  },
  enumerable: false,
  configurable: true,
};

/** Gives the context of a request what shall be seen of it, each once. */
export function attach(context: IPCContext, request: Running, sight: Sight): void {
  const missing = sight & ~request.shown;
  if (missing === 0) return;
  if (request.shown === Sight.Fields) new Marked(context, request);
  request.shown |= missing;
  if (missing & Sight.Signal) Object.defineProperty(context, "signal", SIGNAL);
  if (missing & Sight.Caller) Object.defineProperty(context, "caller", CALLER);
}

/** The first parameter, or fields of it. */
const FIRST = String.raw`(?:[\w$]+|\{[\w$\s,:]*\})`;
/** A function with at most two parameters, without default values: the second is caught. */
const HEAD = new RegExp(
  String.raw`^(?:async\b\s*)?(?:function\b\s*)?(?:[\w$]+(?=\s*\())?\s*` +
    String.raw`(?:\(\s*(?:${FIRST}(?:\s*,\s*([\w$]+|\{[\w$\s,:]*\}))?)?\s*,?\s*\)|[\w$]+)\s*(?:=>|\{)`,
);
const SOURCE = Function.prototype.toString;

/**
 * What a handler can get hold of: `context.signal`, `context.caller`, or with the context itself all of it. Giving a context these takes a good
 * part of what the call of a handler costs, and most handlers have no parameter for the context, or read its four fields: that shows in
 * their source. All wherever it is not certain.
 */
export function sightOf(handler: MethodHandler): Sight {
  const source = SOURCE.call(handler);
  // Other ways to parameters, other ways to write their names, and functions that keep their source to themselves.
  if (/\b(?:arguments|eval)\b|\\u|\[native code\]/.test(source)) return Sight.All;
  const head = HEAD.exec(source);
  if (head === null) return Sight.All;
  const second = head[1];
  if (second === undefined) return Sight.Fields;
  if (second.startsWith("{")) return sightIn(second, String.raw`\b`);
  const name = String.raw`(?<![\w$])${second.replaceAll("$", "\\$")}(?![\w$])`;
  const body = source.slice(head[0].length);
  const otherUse = String.raw`${name}(?!\s*\??\.\s*(?:root|chain|depth|deadline|signal|caller)(?![\w$]))`;
  if (new RegExp(otherUse).test(body)) return Sight.All;
  return sightIn(body, String.raw`${name}\s*\??\.\s*`);
}

/** Which of the two names stand behind `before`. */
function sightIn(source: string, before: string): Sight {
  const stands = (name: string) => new RegExp(String.raw`${before}${name}(?![\w$])`).test(source);
  return (stands("signal") ? Sight.Signal : Sight.Fields) | (stands("caller") ? Sight.Caller : Sight.Fields);
}
