// The charts of a run over steps, one below the other.
/** @import { BadSpan, Line, Range, RunEvent, Series, StepActions, Theme } from "../types.d.ts" */
/** @import { DrawnRun } from "./drawn.js" */
/** @import { Given } from "./lines.js" */
import { Chart } from "../chart/chart.js";
import { memo } from "../state/memo.js";
import { coefLines, lossLines, normLines, rateLines, shareLines, spansDecades } from "./lines.js";

/** @type {{ title: string, hint?: string, height: number, share?: boolean, lines: (given: Given) => Line[], log: (lines: Line[]) => boolean }[]} */
const CHARTS = [
  {
    title: "total norm",
    hint: "before clipping, and what clipping left",
    height: 200,
    lines: normLines,
    log: () => true,
  },
  { title: "loss", height: 120, lines: lossLines, log: spansDecades },
  { title: "learning rate", height: 84, lines: rateLines, log: () => false },
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
];

/**
 * @typedef {object} Shown
 * @property {DrawnRun[]} runs
 * @property {Range} range
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {number | null} trial
 * @property {Theme} theme
 */

export class Charts {
  #charts;

  /** @param {StepActions} on */
  constructor(on) {
    this.#charts = CHARTS.map(({ lines, log, ...look }) => ({
      title: look.title,
      chart: new Chart(look, on),
      log,
      lines: memo((/** @type {DrawnRun[]} */ runs, /** @type {Theme} */ theme, /** @type {number | null} */ trial) =>
        lines({ runs, theme, trial }),
      ),
    }));
    this.elements = this.#charts.map(({ chart }) => chart.element);
  }

  /** @param {Shown} shown */
  show({ runs, theme, trial, range, events, chosen }) {
    const focused = runs.find((run) => run.focused);
    const bad = this.#bad(focused?.series ?? null);
    for (const { title, chart, lines, log } of this.#charts) {
      const given = lines(runs, theme, title === "total norm" ? trial : null);
      chart.show({ title, lines: given, log: log(given), range, bad, events, chosen, theme });
    }
    performance.mark("gradwatch: lines drawn");
  }

  #bad = memo(badSpans);

  hide() {
    for (const element of this.elements) element.hidden = true;
  }

  resize() {
    for (const { chart } of this.#charts) chart.resize();
  }

  /** @param {number | null} step */
  pointAt(step) {
    for (const { chart } of this.#charts) chart.pointAt(step);
  }
}

/**
 * The columns in which a gradient was NaN or infinite.
 *
 * @param {Series | null} series
 * @returns {BadSpan[]}
 */
export function badSpans(series) {
  if (!series) return [];
  const { first, last, nonfinite, infinite } = series;
  return [...first.keys()]
    .filter((i) => nonfinite[i] > 0)
    .map((i) => ({ first: first[i], last: last[i], infinite: infinite[i] > 0 }));
}
