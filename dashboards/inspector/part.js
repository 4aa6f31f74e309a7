// A few layers in detail: each statistic as a chart with a line for each layer, and all values at one step.
/** @import { Layer, Layers, Range, Rows, RunEvent, State, StepActions, Theme } from "../types.d.ts" */
/** @import { Sentinels } from "../heat/sentinels.js" */
import { Chart } from "../chart/chart.js";
import { runColour } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { statistic } from "../heat/statistics.js";
import { memo } from "../state/memo.js";
import { InspectorTable } from "./table.js";
import { inspectedLines, positionsOf, sentinelsAmong } from "./values.js";

const STATS = ["norm", "norm_share", "abs_max", "zeros", "nonfinite", "weight_norm", "update_ratio", "rms_ratio"];
const SHARE = "The share of the squared norm is shown where a column is one step: zoom in.";

/**
 * @typedef {object} Shown
 * @property {State} state
 * @property {Layers | null} layers
 * @property {Rows | null} rows
 * @property {Sentinels | null} sentinels
 * @property {Range} range
 * @property {number} lastStep of the run
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {number[]} selected steps
 * @property {Theme} theme
 */
/** @typedef {StepActions & { look(change: Partial<Pick<State, "inspected" | "pin">>): void }} Actions */

/** @type {import("../types.d.ts").BadSpan[]} */
const NONE = [];

export class InspectorPart {
  /** @type {Actions} */ #on;
  /** @type {Shown | null} */ #shown = null;
  /** @type {number | null} */ #pointer = null;
  #names = h("ul", { class: "inspected" });
  #note = h("p", { class: "faint" }, SHARE);
  /** @type {InspectorTable} */ #table;
  #charts;

  /** @param {Actions} on */
  constructor(on) {
    this.#on = on;
    this.#table = new InspectorTable((pin) => on.look({ pin }));
    this.#charts = STATS.map((stat) => ({
      stat,
      lines: memo(inspectedLines),
      chart: new Chart({ title: `${stat} by layer`, hint: statistic(stat).label, height: 96 }, on),
    }));
    const close = h("button", { type: "button", onclick: () => on.look({ inspected: [] }) }, "close");
    this.element = h(
      "section",
      { class: "inspector", "aria-label": "Layers in detail", hidden: true },
      h("div", { class: "story-head" }, h("h2", {}, "Layers in detail"), h("div", {}, this.#table.copy, " ", close)),
      this.#names,
      this.#table.element,
      this.#note,
      ...this.#charts.map(({ chart }) => chart.element),
    );
  }

  /** @param {Shown} shown */
  show(shown) {
    this.#shown = shown;
    const { state, layers, rows, range, events, chosen, selected, theme } = shown;
    const marks = { range, bad: NONE, events, chosen, selected, tables: state.tables, theme };
    const all = layers ? this.#chosen(state.inspected, layers) : [];
    this.element.hidden = !all.length;
    if (!layers || !all.length) return;
    this.#list(all, theme);
    this.element.classList.toggle("waiting", rows === null);
    if (!rows) return;
    const few = this.#few(state.inspected, layers, shown.sentinels);
    this.#note.hidden = rows.norm_share !== undefined || rows.norm === undefined;
    for (const { stat, lines, chart } of this.#charts) {
      const title = `${stat} by layer`;
      const { log = false, share = false } = statistic(stat);
      const axis = { log: log && !share, robust: !state.wholeAxis, values: state.values[title] ?? null };
      chart.show({ title, lines: lines(rows, stat, all, theme, few), ...axis, ...marks });
    }
    this.#tell();
  }

  #chosen = memo((/** @type {string[]} */ names, /** @type {Layers} */ { layers }) =>
    positionsOf(names, layers).map((i) => layers[i]),
  );

  #few = memo(sentinelsAmong);

  #list = memo((/** @type {Layer[]} */ layers, /** @type {Theme} */ theme) => {
    const rest = (/** @type {string} */ name) => this.#shown?.state.inspected.filter((one) => one !== name) ?? [];
    const items = layers.map(({ name }, i) => {
      const label = `take ${name} away`;
      const onclick = () => this.#on.look({ inspected: rest(name) });
      const away = h("button", { type: "button", class: "bare", "aria-label": label, title: label, onclick }, "✕");
      return h("li", {}, h("span", { class: "key", style: `background:${runColour(i, theme)}` }), name, " ", away);
    });
    this.#names.replaceChildren(...items);
  });

  /** @param {number | null} step where the pointer is */
  pointAt(step) {
    this.#pointer = step;
    for (const { chart } of this.#charts) chart.pointAt(step);
    this.#tell();
  }

  resize() {
    for (const { chart } of this.#charts) chart.resize();
  }

  /** Tells the values at the pointer, at the pinned step, at the event, or at the last step in view. */
  #tell() {
    const shown = this.#shown;
    if (!shown?.rows || !shown.layers || this.element.hidden) return;
    const { state, layers, rows, range, lastStep, chosen, sentinels } = shown;
    const step = this.#pointer ?? state.pin ?? chosen?.step ?? Math.min(lastStep, Math.floor(range[1]));
    const few = this.#few(state.inspected, layers, sentinels);
    this.#table.show({ rows, layers: this.#chosen(state.inspected, layers), step, lastStep, few });
  }
}
