// The recommended threshold, and what any other would have done.
/** @import { Advice, Theme, WhatIf } from "../types.d.ts" */
import { h, prose } from "../draw/dom.js";
import { number, share } from "../draw/text.js";
import { beginning, nearestPoint } from "../state/thresholds.js";
import { ThresholdCurve } from "./curve.js";

/** @typedef {{ advice: Advice, trial: number | null, theme: Theme }} Shown */

export class ThresholdPart {
  /** @type {(change: { trial: number }) => void} */ #look;
  /** @type {Advice | null} */ #advice = null;
  #curve = new ThresholdCurve();
  #slider = h("input", { type: "range", min: 0, max: 0, id: "threshold" });
  #told = h("output", { htmlFor: "threshold" });
  #words = h("div", { class: "advice" });
  #try = h("div", { class: "try" }, h("label", { htmlFor: "threshold" }, "A threshold of"), this.#slider, this.#told);

  /** @param {{ look(change: { trial: number }): void }} on */
  constructor({ look }) {
    this.#look = look;
    this.#slider.oninput = () => this.#moved();
    const plot = h("div", {}, this.#curve.element, this.#try);
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Recommendation" },
      h("h2", {}, "Which threshold"),
      h("div", { class: "two" }, this.#words, plot),
    );
  }

  /** @param {Shown} shown */
  show({ advice, trial, theme }) {
    if (advice !== this.#advice) this.#words.replaceChildren(...wordsOf(advice));
    this.#advice = advice;
    const { curve } = advice;
    this.#try.hidden = this.#curve.element.hidden = !curve.length;
    if (!curve.length) return;
    const at = trial === null ? beginning(curve) : nearestPoint(curve, trial);
    this.#slider.max = String(curve.length - 1);
    this.#slider.value = String(at);
    this.#told.textContent = consequences(curve[at]);
    this.#slider.setAttribute("aria-valuetext", this.#told.textContent);
    this.#curve.show({ advice, threshold: curve[at].threshold, theme });
  }

  #moved() {
    const point = this.#advice?.curve[Number(this.#slider.value)];
    if (point) this.#look({ trial: point.threshold });
  }
}

/** @param {WhatIf} point */
function consequences(point) {
  const label = point.label ? ` (${point.label})` : "";
  return (
    `${number(point.threshold)}${label} would have clipped ${share(point.clipped_fraction)} of the steps the advice` +
    ` is based on, mean clip_coef ${number(point.mean_clip_coef)}, at the worst norm ${number(point.worst_clip_coef)}`
  );
}

/** @param {Advice} advice */
function wordsOf(advice) {
  /** @param {string[]} items */
  const list = (items) => h("ul", {}, ...items.map((item) => h("li", {}, ...prose(item))));
  return [
    h("p", { class: "headline" }, ...headline(advice)),
    ...(advice.first.length ? [h("h3", {}, "First"), list(advice.first)] : []),
    ...(advice.reasons.length ? [h("h3", {}, "Why"), list(advice.reasons)] : []),
    ...Object.values(advice.apply).map((line) => h("pre", { tabIndex: 0 }, h("code", {}, line))),
  ];
}

/** @param {Advice} advice */
function headline({ refused, clip, max_norm: maxNorm, low, high, confidence }) {
  if (refused !== null) return [h("strong", {}, "No recommendation. "), ...prose(refused)];
  return [
    ...(clip ? [h("strong", {}, clip), " or "] : []),
    h("strong", {}, `max_norm ${number(maxNorm)}`),
    ` · supported from ${number(low)} to ${number(high)} · confidence ${confidence}`,
  ];
}
