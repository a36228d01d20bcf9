// Medians, ratios and the readable table.
import { REFERENCE, REFERENCE_WITH_RELAY, SYSTEMS } from "./systems.mjs";

/** What is compared, with where it stands in a round's measurements; `better` tells which way ratios are taken. */
const FIGURES = [
  { name: "one p50 us", phase: "one", value: "p50", better: "less" },
  { name: "one p99 us", phase: "one", value: "p99", better: "less" },
  { name: "64 calls/s", phase: "64", value: "perSecond", better: "more" },
  { name: "512 calls/s", phase: "512", value: "perSecond", better: "more" },
  { name: "small 64 calls/s", phase: "small 64", value: "perSecond", better: "more" },
  { name: "small 512 calls/s", phase: "small 512", value: "perSecond", better: "more" },
  { name: "1 MiB p50 us", phase: "large", value: "p50", better: "less" },
];
const PROCESSES = ["caller", "carrier", "callee"];
/** Figures, and phases whose processor time is shown, in the tables that they stand in. */
const FIGURES_TOGETHER = [
  ["one p50 us", "one p99 us", "1 MiB p50 us"],
  ["64 calls/s", "512 calls/s", "small 64 calls/s", "small 512 calls/s"],
];
const CPU_PHASES_TOGETHER = [
  ["one", "large"],
  ["64", "512", "small 64", "small 512"],
];
const CPU_PHASES = CPU_PHASES_TOGETHER.flat();

const GOALS = [
  { what: "64 in flight, calls/s, at least 4.5 x node-ipc", figure: "64 calls/s", of: REFERENCE, atLeast: 4.5 },
  { what: "512 in flight, calls/s, at least 7 x node-ipc", figure: "512 calls/s", of: REFERENCE, atLeast: 7 },
  { what: "1 MiB echo, at least 5 x faster than node-ipc", figure: "1 MiB p50 us", of: REFERENCE, atLeast: 5 },
  {
    what: "one at a time, no slower than node-ipc and a relay",
    figure: "one p50 us",
    of: REFERENCE_WITH_RELAY,
    atLeast: 1,
  },
];

/**
 * @param rounds one object per round: by row, by phase, what was measured
 * @returns medians, least and greatest of every figure of every row, and medians of its ratios to the reference in the same round
 */
export function summarise(names, rounds) {
  const rows = {};
  for (const name of names) {
    const own = rounds.map((round) => round[name]).filter((measured) => measured !== undefined);
    if (own.length === 0) continue;
    const figures = {};
    for (const { name: figure, phase, value } of FIGURES)
      figures[figure] = spread(own.map((measured) => measured[phase][value]));
    const cpu = {};
    for (const phase of CPU_PHASES) {
      cpu[phase] = {};
      for (const role of PROCESSES) {
        const times = own.map((measured) => measured[phase].cpu[role]).filter((time) => time !== undefined);
        if (times.length > 0) cpu[phase][role] = median(times);
      }
    }
    rows[name] = {
      rounds: own.length,
      figures,
      cpuMicrosecondsPerCall: cpu,
      ratios: ratiosTo(REFERENCE, name, rounds),
    };
  }
  return { rows, goals: goalsOf(SYSTEMS[0].name, rounds) };
}

/** The summary as text. */
export function table({ rows, goals }) {
  const parts = FIGURES_TOGETHER.map((figures) => figuresGrid(figures, rows));
  parts.push(`x: times better than ${REFERENCE} in the same round, median of rounds\n`);
  parts.push(...CPU_PHASES_TOGETHER.map((phases) => processorGrid(phases, rows)));
  const goalLines = goals.map(({ what, ratio, isMet }) => [what, ratio.toFixed(2), isMet ? "met" : "missed"]);
  if (goalLines.length > 0) parts.push(grid([["goal", "x", ""], ...goalLines]));
  return parts.join("\n");
}

function figuresGrid(names, rows) {
  const head = ["", ...names.flatMap((name) => [name, "(spread)", "x"])];
  const lines = Object.entries(rows).map(([row, { figures, ratios }]) => [
    row,
    ...names.flatMap((name) => {
      const { median: middle, least, greatest } = figures[name];
      const ratio = ratios?.[name];
      return [number(middle), `${number(least)}-${number(greatest)}`, ratio === undefined ? "" : ratio.toFixed(2)];
    }),
  ]);
  return `${grid([head, ...lines])}\n`;
}

function processorGrid(phases, rows) {
  const head = ["CPU us per call", ...phases.flatMap((phase) => [...PROCESSES, "all"].map((role) => `${phase} ${role}`))];
  const lines = Object.entries(rows).map(([row, { cpuMicrosecondsPerCall: cpu }]) => [
    row,
    ...phases.flatMap((phase) => {
      const all = Object.values(cpu[phase]).reduce((sum, time) => sum + time, 0);
      return [...PROCESSES.map((role) => cpu[phase][role]), all].map((time) => time?.toFixed(1) ?? "-");
    }),
  ]);
  return `${grid([head, ...lines])}\n`;
}

function goalsOf(name, rounds) {
  return GOALS.flatMap(({ what, figure, of, atLeast }) => {
    const ratio = ratiosTo(of, name, rounds)?.[figure];
    return ratio === undefined ? [] : [{ what, ratio, atLeast, isMet: ratio >= atLeast }];
  });
}

/** How many times better a row is than the reference in the same round: the median, by figure. */
function ratiosTo(reference, name, rounds) {
  const both = rounds.filter((round) => round[name] !== undefined && round[reference] !== undefined);
  if (both.length === 0) return undefined;
  const ratios = {};
  for (const { name: figure, phase, value, better } of FIGURES) {
    const quotients = both.map((round) => round[name][phase][value] / round[reference][phase][value]);
    ratios[figure] = median(better === "more" ? quotients : quotients.map((quotient) => 1 / quotient));
  }
  return ratios;
}

function spread(values) {
  return { median: median(values), least: Math.min(...values), greatest: Math.max(...values) };
}

function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function number(value) {
  return value.toFixed(value < 100 ? 1 : 0);
}

function grid(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const cell = (text, column) => (column === 0 ? text.padEnd(widths[column]) : text.padStart(widths[column]));
  return rows.map((row) => row.map(cell).join("  ").trimEnd()).join("\n");
}
