// The charts of a run over steps, one below the other.
/** @import { Line, Range, RunEvent, Series, StepActions, Theme } from "../types.d.ts" */
/** @import { DrawnRun } from "./drawn.js" */
/** @import { Given } from "./lines.js" */

import { badSpans } from "../chart/bad.js";
import { Chart } from "../chart/chart.js";
import { memo } from "../state/memo.js";
import { coefLines, lossLines, normLines, recordedLines, shareLines, spansDecades } from "./lines.js";

/**
 * @typedef {object} Described
 * @property {string} title
 * @property {string} [hint]
 * @property {number} height
 * @property {boolean} [share]
 * @property {boolean} [robust]
 * @property {"nonfinite" | "loss.bad"} [bad]
 * @property {(given: Given) => Line[]} lines
 * @property {(lines: Line[]) => boolean} log
 */

/** @type {Described[]} */
const CHARTS = [
  {
    title: "total norm",
    hint: "before clipping, and what clipping left",
    height: 200,
    robust: true,
    lines: normLines,
    log: () => true,
  },
  { title: "loss", height: 120, robust: true, bad: "loss.bad", lines: lossLines, log: spansDecades },
  { title: "learning rate", height: 84, lines: recordedLines("learning_rate"), log: () => false },
  {
    title: "clipped_fraction",
    hint: "share of the steps clipped, over a hundredth of the steps shown",
    height: 84,
    share: true,
    lines: shareLines,
    log: () => false,
  },
  {
    title: "clip_coef",
    hint: "the factor the gradients were multiplied by",
    height: 96,
    lines: coefLines,
    log: () => true,
  },
  {
    title: "update_ratio",
    hint: "norm of the optimizer's update over that of the weights",
    height: 96,
    robust: true,
    lines: recordedLines("update_ratio"),
    log: () => true,
  },
  {
    title: "update_norm",
    hint: "norm of the optimizer's update",
    height: 84,
    robust: true,
    lines: recordedLines("update_norm"),
    log: () => true,
  },
  {
    title: "rms_ratio",
    hint: "gradient over the root of the second moment, the largest of all parameters",
    height: 84,
    robust: true,
    lines: recordedLines("rms_ratio"),
    log: () => true,
  },
  {
    title: "noise_scale",
    hint: "in micro-batches or batches of a rank; its trend says more than its value",
    height: 84,
    robust: true,
    lines: recordedLines("noise_scale"),
    log: () => true,
  },
];

/**
 * @typedef {object} Shown
 * @property {DrawnRun[]} runs
 * @property {Range} range
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {number | null} trial
 * @property {boolean} wholeAxis whether no axis is cut
 * @property {Record<string, Range>} values the ends of y axes, by chart
 * @property {Theme} theme
 */

export class Charts {
  #charts;

  /** @param {StepActions} on */
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
  }

  /** @param {Shown} shown */
  show({ runs, theme, trial, wholeAxis, values, range, events, chosen }) {
    const focused = runs.find((run) => run.focused);
    if (!focused) return;
    const shared = { range, events, chosen, theme };
    for (const { title, chart, lines, log, robust, bad } of this.#charts) {
      const given = lines(runs, theme, title === "total norm" ? trial : null);
      const axis = { log: log(given), robust: robust && !wholeAxis, values: values[title] ?? null };
      chart.show({ title, lines: given, bad: bad(focused.series), ...axis, ...shared });
    }
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
