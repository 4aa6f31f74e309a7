// What happened around an event: a few steps on both sides, and the layers that rose most.
/** @import { RunEvent, Series, Tile } from "../types.d.ts" */
import { ABSENT } from "../heat/values.js";

export const AROUND = 10; // steps on each side of the event
const MOST_LAYERS = 10;
const RISEN = 5; // times its own median: a layer that has risen
const NUMBERED = 3; // of the layers that rose first

/**
 * @typedef {object} StoryRow
 * @property {string} name of a layer
 * @property {number[]} ratios to the layer's median, one for each column; Infinity: not finite, ABSENT: no value
 * @property {number | null} order 1 for the layer that rose first; null for those that rose later or not at all
 */
/** @typedef {{ first: number, last: number, index: number }} Column steps, and their place in the arrays */

/**
 * The columns that lie within the steps around an event.
 *
 * @param {{ first: Float64Array, last: Float64Array }} columns
 * @param {RunEvent} event
 * @returns {Column[]}
 */
export function columnsAround({ first, last }, { step }) {
  return [...first.keys()]
    .filter((i) => last[i] >= step - AROUND && first[i] <= step + AROUND)
    .map((index) => ({ first: first[index], last: last[index], index }));
}

/**
 * The layers with the highest norm beside their own median, and the one that the event names, in the order of the
 * backward pass.
 *
 * @param {Tile} tile of the norms
 * @param {Column[]} columns
 * @param {{ name: string, median: number | null }[]} layers
 * @param {string | null} named
 * @returns {StoryRow[]}
 */
export function storyRows(tile, columns, layers, named = null) {
  const { values } = tile.arrays;
  const ratio = (/** @type {number} */ layer, /** @type {number} */ column) => {
    const value = values[column * values.shape[1] + layer];
    if (value === Infinity || value === ABSENT) return value;
    const { median } = layers[layer];
    return median ? value / median : ABSENT;
  };
  const all = layers.flatMap(({ name, median }, layer) => {
    const ratios = columns.map(({ index }) => ratio(layer, index));
    const highest = name === named ? Infinity : Math.max(...ratios);
    return median || highest === Infinity ? [{ name, ratios, layer, highest }] : [];
  });
  const chosen = all.sort((a, b) => compare(b.highest, a.highest) || b.layer - a.layer).slice(0, MOST_LAYERS);
  const backward = chosen.sort((a, b) => b.layer - a.layer);
  const orders = orderOfRise(backward.map(({ ratios }) => ratios));
  return backward.map(({ name, ratios }, i) => ({ name, ratios, order: orders[i] }));
}

/** Infinity minus itself is no number. @param {number} a @param {number} b */
function compare(a, b) {
  return a === b ? 0 : a - b;
}

/**
 * Numbers the rows that rise first, by the column in which they do; of several in one column the first row comes first.
 *
 * @param {number[][]} rows
 * @returns {(number | null)[]}
 */
export function orderOfRise(rows) {
  const begins = rows.map((ratios) => ratios.findIndex((value) => value >= RISEN));
  const first = [...begins.keys()].filter((row) => begins[row] >= 0).sort((a, b) => begins[a] - begins[b]);
  return begins.map((_, row) => {
    const place = first.indexOf(row);
    return place >= 0 && place < NUMBERED ? place + 1 : null;
  });
}

const SCALARS = ["total_norm", "loss", "learning_rate", "clip_coef"];

/**
 * What else changed at those steps, as far as it was recorded.
 *
 * @param {Series} series
 * @param {RunEvent} event
 * @returns {{ name: string, values: { first: number, last: number, value: number, bad: boolean }[] }[]}
 */
export function storyScalars(series, event) {
  const columns = columnsAround({ first: series.first, last: series.last }, event);
  /** @type {Record<string, string>} */
  const counts = { total_norm: "nonfinite", loss: "loss.bad" };
  const rows = SCALARS.map((name) => ({
    name,
    values: columns.map(({ first, last, index }) => ({
      first,
      last,
      value: series[`${name}.high`][index],
      bad: counts[name] !== undefined && series[counts[name]][index] > 0,
    })),
  }));
  return rows.filter(({ values }) => values.some(({ value, bad }) => bad || !Number.isNaN(value)));
}

/**
 * The values of a scalar as cells below the columns of a table: one value may span several columns, or a column join
 * several values, of which it shows the largest.
 *
 * @param {{ first: number, last: number, value: number, bad: boolean }[]} values
 * @param {{ first: number, last: number }[]} columns
 * @returns {{ value: number, bad: boolean, span: number }[]}
 */
export function cellsBelow(values, columns) {
  /** @type {{ value: number, bad: boolean, span: number, of: string }[]} */
  const cells = [];
  for (const { first, last } of columns) {
    const within = values.filter((one) => one.last >= first && one.first <= last);
    const of = within.map((one) => one.first).join();
    const before = cells.at(-1);
    if (before && within.length === 1 && before.of === of) {
      before.span++;
      continue;
    }
    const known = within.map(({ value }) => value).filter((value) => !Number.isNaN(value));
    const value = known.length ? Math.max(...known) : Number.NaN;
    cells.push({ value, bad: within.some(({ bad }) => bad), span: 1, of });
  }
  return cells.map(({ value, bad, span }) => ({ value, bad, span }));
}

/**
 * What the replay of the captured step found, as questions and answers; null if the event has none.
 *
 * @param {RunEvent} event
 * @returns {{ step: number, answers: { label: string, text: string, isCode: boolean }[] } | null}
 */
export function replayTold({ replay }) {
  if (!replay) return null;
  const answers = replay.answers.map(([label, text]) => {
    const isCode = label === "" && text.startsWith("> ");
    return { label, text: isCode ? text.slice(2) : text, isCode };
  });
  return { step: replay.step, answers };
}
