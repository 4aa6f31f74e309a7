// The heat map at one step as a table: every row with its value. The arrow keys move the step.
/** @import { Shown } from "./heatmap.js" */
import { TableView } from "../draw/tableview.js";
import { count, steps } from "../draw/text.js";
import { valueText } from "./legend.js";
import { columnOf } from "./readout.js";
import { statistic } from "./statistics.js";
import { largest } from "./values.js";

const MOST = 1000; // rows

export class HeatTable {
  #view = new TableView();
  element = this.#view.element;
  /** @type {Shown | null} */ #shown = null;

  /** @param {(step: number) => void} pin */
  constructor(pin) {
    this.element.addEventListener("keydown", (press) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[press.key];
      if (!by || !this.#shown || press.ctrlKey || press.metaKey || press.altKey) return;
      press.preventDefault();
      press.stopPropagation(); // the page's own arrows pan
      const { first, last } = this.#shown.tile.arrays;
      const next = Math.max(0, Math.min(first.length - 1, columnOf(this.#shown, stepOf(this.#shown)) + by));
      if (first.length) pin(Math.round((first[next] + last[next]) / 2));
    });
  }

  /** @param {Shown} shown @param {boolean} wanted */
  show(shown, wanted) {
    this.#shown = shown;
    if (!wanted) return this.#view.hide();
    this.#view.show(heatListing(shown));
  }
}

/**
 * Every row with its value at the pinned step, at the event, or at the last step in view.
 *
 * @param {Shown} shown
 */
export function heatListing(shown) {
  const { stat, tile, values, rows } = shown;
  const look = statistic(stat);
  const column = columnOf(shown, stepOf(shown));
  const { first, last } = tile.arrays;
  const when = column < 0 ? "no step here" : steps(first[column], last[column]);
  const joined = column >= 0 && first[column] !== last[column] ? "largest of " : "";
  const left = rows.length > MOST ? `; ${count(rows.length - MOST, "more row")}: filter or group them` : "";
  return {
    caption: `${look.label}, ${joined}${when}`,
    note: `; left and right arrow move the step${left}`,
    heads: ["layer", "value"],
    rows: rows
      .slice(0, MOST)
      .map((row) => [row.name, column < 0 ? "–" : valueText(largest(values, row, column), look)]),
  };
}

/** @param {Shown} shown */
function stepOf({ pin, chosen, lastStep, range }) {
  return pin ?? chosen?.step ?? Math.min(lastStep, Math.floor(range[1]));
}
