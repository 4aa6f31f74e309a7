// The colours of the heat map in words.
/** @import { Theme } from "../types.d.ts" */
/** @import { Statistic } from "./statistics.js" */
import { gradient, ink } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { number, share } from "../draw/text.js";
import { ABSENT } from "./values.js";

/**
 * @param {Statistic} statistic
 * @param {[low: number, high: number]} ends of the colour scale
 * @param {Theme} theme
 * @returns {HTMLElement[]}
 */
export function legend(statistic, [low, high], theme) {
  const { bad, absent, hatch } = ink(theme);
  const stripes = `repeating-linear-gradient(135deg, ${bad} 0 2.5px, ${hatch} 2.5px 4px)`;
  const swatch = (/** @type {string} */ colour) => h("span", { class: "swatch", style: `background:${colour}` });
  const text = (/** @type {number} */ value) => (statistic.share ? share(value) : number(value));
  const end = (/** @type {number} */ value) => h("span", {}, statistic.against ? power(value) : text(value));
  return [
    end(low),
    h("span", { class: "ramp", style: `background:${gradient(statistic.colours, theme)}` }),
    end(high),
    h("span", {}, swatch(stripes), "not finite"),
    h("span", {}, swatch(absent), statistic.absent),
  ];
}

/** The power of two that a ratio is, with its sign. @param {number} ratio */
function power(ratio) {
  const log = Math.log2(ratio);
  return `${log > 0 ? "+" : ""}${number(log)}`;
}

/**
 * A value of the heat map as text.
 *
 * @param {number} value
 * @param {Statistic} statistic
 */
export function valueText(value, statistic) {
  if (value === Infinity) return "not finite";
  if (value === ABSENT) return statistic.absent;
  if (statistic.share) return share(value);
  if (statistic.against) return `${power(value)} (× ${number(value)})`;
  return `${statistic.colours === "around" ? "× " : ""}${number(value)}`;
}
