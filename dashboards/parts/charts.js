// The charts of a run over steps, one below the other.
/** @import { Advice, Distribution, Range, RunEvent, Series, StepActions, Theme } from "../types.d.ts" */
/** @import { DrawnRun } from "./drawn.js" */

import { badSpans } from "../chart/bad.js";
import { Chart } from "../chart/chart.js";
import { DistributionPart } from "../distribution/part.js";
import { runColour } from "../draw/colours.js";
import { memo } from "../state/memo.js";
import { CHARTS } from "./described.js";

/**
 * @typedef {object} Shown
 * @property {DrawnRun[]} runs
 * @property {Range} range
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {number[]} selected steps
 * @property {number | null} trial
 * @property {boolean} wholeAxis whether no axis is cut
 * @property {Record<string, Range>} values the ends of y axes, by chart
 * @property {Distribution | null} distribution of the norms of the run in the focus
 * @property {Advice | null} advice
 * @property {boolean} tables
 * @property {Theme} theme
 */

export class Charts {
  #charts;

  #distribution;

  /** @param {StepActions & { look(change: { trial: number | null }): void }} on */
  constructor(on) {
    this.#charts = CHARTS.map(({ lines, log, robust = false, bad = "nonfinite", ...look }) => ({
      title: look.title,
      chart: new Chart(look, on),
      log,
      robust,
      bad: memo((/** @type {Series} */ series) => badSpans(series, bad)),
      lines: memo((/** @type {DrawnRun[]} */ runs, /** @type {Theme} */ theme, /** @type {number | null} */ trial) =>
        lines({ runs, theme, trial }),
      ),
    }));
    this.all = this.#charts.map(({ chart }) => chart);
    this.#distribution = new DistributionPart(this.all[0], (trial) => on.look({ trial }));
  }

  /** @param {Shown} shown */
  show({ runs, theme, trial, wholeAxis, values, range, events, chosen, selected, tables, distribution, advice }) {
    const focused = runs.find((run) => run.focused);
    if (!focused) return;
    const shared = { range, events, chosen, selected, tables, theme };
    for (const { title, chart, lines, log, robust, bad } of this.#charts) {
      const given = lines(runs, theme, title === "total norm" ? trial : null);
      const axis = { log: log(given), robust: robust && !wholeAxis, values: values[title] ?? null };
      chart.show({ title, lines: given, bad: bad(focused.series), ...axis, ...shared });
    }
    const { series, slot } = focused;
    const recommended = advice?.max_norm ?? null;
    this.#distribution.show({ distribution, series, range, trial, recommended, colour: runColour(slot, theme), theme });
    performance.mark("gradwatch: lines drawn");
  }

  resize() {
    for (const { chart } of this.#charts) chart.resize();
  }

  /** @param {number | null} step */
  pointAt(step) {
    for (const { chart } of this.#charts) chart.pointAt(step);
  }
}
