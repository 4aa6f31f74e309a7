// The table of runs: its columns, and its order.
/** @import { ListedRun, RunNumbers } from "../types.d.ts" */
import { number, share, whole } from "../draw/text.js";

/**
 * @typedef {object} Column
 * @property {string} key
 * @property {string} label
 * @property {(run: ListedRun) => unknown} value what to sort by
 * @property {(run: ListedRun) => string} text
 * @property {boolean} [words] whether values are words, not numbers
 */

const GRAVITY = ["healthy", "warning", "critical"];

/** @param {ListedRun} run */
function verdictText(run) {
  if (run.error) return "can't be read";
  return run.verdict ?? (run.pending ? "being diagnosed" : "no step yet");
}

/** @param {ListedRun} run */
function faultText({ numbers }) {
  if (!numbers?.fault) return "–";
  return numbers.fault_step === null ? numbers.fault : `${numbers.fault}, step ${whole(numbers.fault_step)}`;
}

/** @param {ListedRun} run */
function layerText({ numbers }) {
  return numbers?.fault_layer ?? "–";
}

/** @type {[key: keyof RunNumbers, label: string, text: (value: any) => string][]} */
const NUMBERS = [
  ["steps", "steps", whole],
  ["learning_rate", "learning rate", number],
  ["threshold", "threshold", number],
  ["clipped_fraction", "clipped", share],
  ["median_norm", "median norm", number],
  ["max_norm", "max norm", number],
  ["nonfinite_steps", "not finite", whole],
  ["last_loss", "last loss", number],
];

/**
 * The columns: verdict, first fault and its layer, numbers, and those settings of the optimizers in which the runs differ.
 *
 * @param {ListedRun[]} runs
 * @returns {Column[]}
 */
export function columnsOf(runs) {
  return [
    { key: "name", label: "run", value: (run) => run.name, text: (run) => run.name, words: true },
    { key: "verdict", label: "verdict", value: ({ verdict }) => gravityOf(verdict), text: verdictText, words: true },
    { key: "fault", label: "fault", value: faultText, text: faultText, words: true },
    { key: "fault_layer", label: "layer", value: layerText, text: layerText, words: true },
    ...NUMBERS.map(([key, label, text]) => {
      const value = (/** @type {ListedRun} */ { numbers }) => numbers?.[key] ?? null;
      return { key, label, value, text: textOf(value, text) };
    }),
    ...differing(runs).map((name) => {
      const value = (/** @type {ListedRun} */ { settings }) => settings?.[name] ?? null;
      return { key: `setting.${name}`, label: name, value, text: textOf(value, settingText) };
    }),
  ];
}

/** @param {string | null} verdict */
function gravityOf(verdict) {
  return verdict === null ? null : GRAVITY.indexOf(verdict);
}

/**
 * @param {(run: ListedRun) => unknown} value
 * @param {(value: any) => string} text
 * @returns {(run: ListedRun) => string}
 */
function textOf(value, text) {
  return (run) => (value(run) === null ? "–" : text(value(run)));
}

/** @param {unknown} value */
function settingText(value) {
  return typeof value === "number" ? number(value) : typeof value === "string" ? value : JSON.stringify(value);
}

/**
 * The names of settings whose value is not the same in all runs that have settings.
 *
 * @param {ListedRun[]} runs
 */
export function differing(runs) {
  const known = runs.flatMap(({ settings }) => (settings && Object.keys(settings).length ? [settings] : []));
  const names = new Set(known.flatMap(Object.keys));
  return [...names].filter((name) => new Set(known.map((one) => JSON.stringify(one[name]))).size > 1);
}

/**
 * The runs sorted by a column; those without a value come last, whatever the direction.
 *
 * @param {ListedRun[]} runs
 * @param {Column[]} columns
 * @param {string} sort the key of a column, with a minus before it from the largest on; another one keeps the order
 */
export function sorted(runs, columns, sort) {
  const down = sort.startsWith("-");
  const column = columns.find(({ key }) => key === (down ? sort.slice(1) : sort));
  if (!column) return runs;
  const keyed = runs.map((run) => ({ run, value: comparable(column.value(run)) }));
  keyed.sort((a, b) => {
    if (a.value === null || b.value === null) return Number(a.value === null) - Number(b.value === null);
    return (down ? -1 : 1) * compared(a.value, b.value);
  });
  return keyed.map(({ run }) => run);
}

/** JSON's "NaN" lies above every number, as the worst. @param {unknown} value @returns {number | string | null} */
function comparable(value) {
  if (value === null || value === undefined || value === "–") return null;
  if (value === "NaN") return Infinity;
  if (value === "Infinity" || value === "-Infinity") return Number(value);
  return typeof value === "number" || typeof value === "string" ? value : JSON.stringify(value);
}

/** @param {number | string} a @param {number | string} b */
function compared(a, b) {
  if (typeof a === "number" && typeof b === "number") return a === b ? 0 : a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

/**
 * The next order when the reader clicks on a column: numbers from the largest on at first, words from A on.
 *
 * @param {string} sort
 * @param {Column} column
 */
export function nextSort(sort, { key, words }) {
  const [first, second] = words && key !== "verdict" ? [key, `-${key}`] : [`-${key}`, key];
  if (sort === first) return second;
  return sort === second ? "" : first;
}
