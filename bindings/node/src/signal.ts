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

/** The request whose context this very object is, if it is one with a signal. */
export const requestOf: (context: object) => Running | undefined = Marked.requestOf;

/** Not enumerable: whoever lists, copies, compares or serialises a context sees its four fields. */
const SIGNAL: PropertyDescriptor = {
  get(this: object) {
    return requestOf(this)?.signal;
  },
  enumerable: false,
  configurable: true,
};

/** Gives a context its `signal`, once. */
export function attachSignal(context: IPCContext, request: Running): void {
  if (requestOf(context) !== undefined) return;
  new Marked(context, request);
  Object.defineProperty(context, "signal", SIGNAL);
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
 * Whether a handler can get hold of `context.signal`, or of the context itself. Giving a context its signal takes a good part of what the
 * call of a handler costs, and most handlers have no parameter for the context, or read its four fields: that shows in their source.
 * True wherever it is not certain.
 */
export function maySeeSignal(handler: MethodHandler): boolean {
  const source = SOURCE.call(handler);
  // Other ways to parameters, other ways to write their names, and functions that keep their source to themselves.
  if (/\b(?:arguments|eval)\b|\\u|\[native code\]/.test(source)) return true;
  const head = HEAD.exec(source);
  if (head === null) return true;
  const second = head[1];
  if (second === undefined) return false;
  if (second.startsWith("{")) return /\bsignal\b/.test(second);
  const name = second.replaceAll("$", "\\$");
  const otherUse = String.raw`(?<![\w$])${name}(?![\w$])(?!\s*\??\.\s*(?:root|chain|depth|deadline)(?![\w$]))`;
  return new RegExp(otherUse).test(source.slice(head[0].length));
}
