// Layers by steps: the controls, the heat map, and the chosen row as a line.
/** @import { Layers, Line, Range, RunEvent, StepActions, Theme, Tile } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { State } from "../state/state.js" */
import { Chart } from "../chart/chart.js";
import { ink } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { HeatMap } from "../heat/heatmap.js";
import { offered, sourceOf, statistic } from "../heat/statistics.js";
import { lineOf, valuesOf } from "../heat/values.js";
import { memo } from "../state/memo.js";
import { rowNamed, rowSubjects, rowsOf } from "../state/rows.js";
import { LayerControls } from "./controls.js";

/** @typedef {import("./controls.js").Look} Look */
/** @typedef {StepActions & { look(change: Partial<Look & { layer: string | null }>): void }} Actions */

/**
 * @typedef {object} Shown
 * @property {State} state
 * @property {Layers} layers
 * @property {Tile | null} tile
 * @property {Tile | null} whole
 * @property {string} colour of the run
 * @property {Range} range
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {Theme} theme
 */

export class LayersPart {
  /** @type {LayerControls} */ #controls;
  /** @type {HeatMap} */ #heat;
  /** @type {Chart} */ #chart;
  /** @type {Row[]} */ #rows = [];

  /** @param {Actions} on */
  constructor(on) {
    this.#controls = new LayerControls({ look: on.look });
    this.#heat = new HeatMap({ ...on, chooseRow: (row) => on.look({ layer: row.name }) });
    this.#chart = new Chart({ title: "chosen layer", height: 130 }, on);
    const label = "Layers by steps";
    this.element = h(
      "section",
      { class: "layers", "aria-label": label },
      h("h2", {}, "Layers × steps"),
      this.#controls.element,
      this.#heat.element,
      this.#chart.element,
    );
  }

  /** @returns {number} how many pixels there are for steps */
  get width() {
    return this.#heat.width;
  }

  /** @param {Shown} shown */
  show({ state, layers, tile, whole, colour, range, events, chosen, theme }) {
    const stat = offered(state.stat, layers);
    this.element.hidden = stat === null;
    if (stat === null) return;
    const look = statistic(stat);
    const subjects = this.#subjects(look.ranks ?? false, layers);
    this.#rows = this.#controls.valid(state.filter)
      ? this.#arranged(subjects, state.filter, state.depth, state.order)
      : this.#rows;
    const row = rowNamed(this.#rows, subjects.layers, state.layer);
    this.#controls.show({ layers, stat, look: state, rows: this.#rows, row });
    if (!tile || !whole || tile.about.stat !== sourceOf(stat)) return; // what is shown stays until the tile arrives
    const values = this.#values(tile, stat, subjects.layers);
    this.#heat.show({ stat, tile, whole, values, rows: this.#rows, chosenRow: row, range, events, chosen, theme });
    const lines = this.#lines(row, tile, stat, subjects.layers, colour, theme);
    const title = row?.name ?? "chosen layer";
    this.#chart.show({ title, lines, log: !look.share, range, bad: NO_BAD, events, chosen, theme });
  }

  #subjects = memo(rowSubjects);
  #arranged = memo(
    (
      /** @type {ReturnType<typeof rowSubjects>} */ { layers, telling },
      /** @type {string} */ filter,
      /** @type {number} */ depth,
      /** @type {string} */ order,
    ) => rowsOf(layers, telling, { filter, depth, order }),
  );
  #values = memo(valuesOf);
  #lines = memo(rowLines);

  resize() {
    this.#heat.draw();
    this.#chart.resize();
  }

  /** @param {number | null} step */
  pointAt(step) {
    this.#heat.pointAt(step);
    this.#chart.pointAt(step);
  }
}

/** @type {import("../types.d.ts").BadSpan[]} */
const NO_BAD = [];

/**
 * The chosen row as a line, and beside the norm of a single layer its median.
 *
 * @param {Row | null} row
 * @param {Tile} tile
 * @param {string} stat
 * @param {ReturnType<typeof rowSubjects>["layers"]} layers
 * @param {string} colour
 * @param {Theme} theme
 * @returns {Line[]}
 */
function rowLines(row, tile, stat, layers, colour, theme) {
  if (!row) return [];
  const line = lineOf(valuesOf(tile, stat, layers), row, tile.arrays);
  const lines = [{ ...line, label: stat, colour }];
  const median = row.members.length === 1 && stat === "norm" ? layers[row.members[0]].median : null;
  if (!median) return lines;
  const { first, last } = line;
  const high = Float64Array.from(first, () => median);
  return [...lines, { first, last, high, label: "its median", colour: ink(theme).line, dash: [4, 4], reference: true }];
}
