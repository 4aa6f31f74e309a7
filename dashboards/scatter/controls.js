// What is drawn against what in the scatter plot, and what its colours tell.
/** @import { State, Theme } from "../types.d.ts" */
/** @import { Cloud } from "./values.js" */
import { gradientOf, runColour, stepColours } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { whole } from "../draw/text.js";
import { spanOf } from "./picture.js";
import { QUANTITIES } from "./values.js";

export class ScatterControls {
  #x = h("select");
  #y = h("select");
  #tint = h("select");
  #legend = h("div", { class: "shades" });

  /** @param {(change: Partial<Pick<State, "plot" | "tint" | "brush">>) => void} look */
  constructor(look) {
    const plot = () => look({ plot: `${this.#x.value} ${this.#y.value}`, brush: null });
    this.#x.onchange = this.#y.onchange = plot;
    this.#tint.append(...["step", "run"].map((value) => h("option", { value }, value)));
    this.#tint.onchange = () => look({ tint: this.#tint.value });
    const field = (/** @type {string} */ label, /** @type {HTMLElement} */ select) =>
      h("label", {}, `${label} `, named(select, label));
    const fields = [field("x", this.#x), field("y", this.#y), field("colour by", this.#tint)];
    this.element = h("div", { class: "controls" }, ...fields, this.#legend);
  }

  /**
   * @param {string[]} names those offered
   * @param {[x: string, y: string]} axes
   * @param {string} tint
   */
  choose(names, [x, y], tint) {
    for (const [select, other] of /** @type {const} */ ([
      [this.#x, y],
      [this.#y, x],
    ])) {
      const own = names.filter((name) => name !== other);
      if (own.join() !== [...select.options].map(({ value }) => value).join())
        select.replaceChildren(...own.map((value) => h("option", { value }, QUANTITIES[value].label)));
    }
    [this.#x.value, this.#y.value, this.#tint.value] = [x, y, tint];
  }

  /** @param {Cloud} cloud @param {string} tint @param {Theme} theme */
  explain({ runs, step }, tint, theme) {
    this.#legend.replaceChildren(...(tint === "run" ? legendOfRuns(runs, theme) : legendOfSteps(step, theme)));
  }
}

/** @param {HTMLElement} select @param {string} label */
function named(select, label) {
  select.setAttribute("aria-label", label); // without the texts of its options
  return select;
}

/** @param {Cloud["runs"]} runs @param {Theme} theme */
function legendOfRuns(runs, theme) {
  return runs.map(({ name, slot }) =>
    h("span", {}, h("span", { class: "swatch", style: `background:${runColour(slot, theme)}` }), name),
  );
}

/** @param {Float64Array} step @param {Theme} theme */
function legendOfSteps(step, theme) {
  const [first, last] = step.length ? spanOf(step) : [0, 0];
  const style = `background:${gradientOf(stepColours(theme))}`;
  return [h("span", {}, `step ${whole(first)}`), h("div", { class: "ramp", style }), h("span", {}, whole(last))];
}
