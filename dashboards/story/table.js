// The story of an event as a table: it can be read aloud, copied and printed.
/** @import { RunEvent, Theme } from "../types.d.ts" */
/** @import { Column, StoryRow, storyScalars } from "./story.js" */
import { cellColours, ink, palette } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { colourScale } from "../draw/scales.js";
import { fit, number, steps, whole } from "../draw/text.js";
import { ABSENT } from "../heat/values.js";
import { cellsBelow } from "./story.js";

const NAME = 34; // characters
const NOT_FINITE = "∞/NaN"; // of a step it is recorded that there was one of them
const LOST = { title: "NaN or infinite" };

/**
 * @param {object} story
 * @param {RunEvent} story.event
 * @param {Column[]} story.columns
 * @param {StoryRow[]} story.rows
 * @param {ReturnType<typeof storyScalars>} story.scalars
 * @param {(name: string) => void} story.chooseLayer
 * @param {Theme} theme
 */
export function storyTable({ event, columns, rows, scalars, chooseLayer }, theme) {
  const span = columns.length ? steps(columns[0].first, columns[columns.length - 1].last) : "no steps";
  const caption = h("caption", {}, `${span}: norms of layers as multiples of their own median, in backward order`);
  const heads = columns.map((column) => h("th", headLook(column, event), offset(column, event)));
  return h(
    "table",
    { class: "story-table" },
    caption,
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "layer"), ...heads)),
    h("tbody", {}, ...rows.map((row) => layerRow(row, row.name === event.parameter, chooseLayer, theme))),
    h(
      "tbody",
      {},
      ...scalars.map(({ name, values }) => scalarRow(name, cellsBelow(values, columns.length ? columns : values))),
    ),
  );
}

/** @param {Column} column @param {RunEvent} event */
function headLook({ first, last }, { step }) {
  const here = first <= step && step <= last;
  return { scope: "col", title: steps(first, last), class: here ? "here" : "" };
}

/** Steps after the event, or before it. @param {Column} column @param {RunEvent} event */
function offset({ first, last }, { step }) {
  if (first <= step && step <= last) return whole(step);
  const by = first > step ? first - step : last - step;
  return by > 0 ? `+${by}` : `−${-by}`;
}

/**
 * @param {StoryRow} row
 * @param {boolean} named by the event
 * @param {(name: string) => void} choose
 * @param {Theme} theme
 */
function layerRow({ name, ratios, order }, named, choose, theme) {
  const shades = palette("around", theme);
  const scaled = colourScale(0.01, 100, true);
  const { bad } = ink(theme);
  const cells = ratios.map((ratio) => {
    if (ratio === ABSENT) return h("td", { class: "faint" }, "–");
    if (ratio === Infinity)
      return h("td", { style: `background:${bad};color:${theme === "dark" ? "#000" : "#fff"}`, ...LOST }, NOT_FINITE);
    const { background, color } = cellColours(shades[scaled(ratio)]);
    return h("td", { style: `background:${background};color:${color}` }, number(ratio, 2));
  });
  const badge = order === null ? "" : h("span", { class: "order", title: `rose ${ORDINALS[order]}` }, String(order));
  const button = h(
    "button",
    { type: "button", class: "plain", title: name, onclick: () => choose(name) },
    fit(name, NAME),
  );
  return h("tr", { class: named ? "named" : "" }, h("th", { scope: "row" }, badge, button), ...cells);
}

/** @type {Record<number, string>} */
const ORDINALS = { 1: "first", 2: "second", 3: "third" };

/** @param {string} name @param {ReturnType<typeof cellsBelow>} values */
function scalarRow(name, values) {
  const cells = values.map(({ value, bad, span }) => {
    const wide = { colSpan: span, ...(span > 1 ? { class: "joined", title: `the largest of ${span} steps` } : {}) };
    if (bad) return h("td", { ...wide, ...LOST, class: "bad" }, NOT_FINITE);
    return h("td", wide, Number.isNaN(value) ? "–" : number(value));
  });
  return h("tr", {}, h("th", { scope: "row" }, name), ...cells);
}
