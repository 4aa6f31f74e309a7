// All values of the inspected layers at one step, as a table to read and to copy.
/** @import { Layer, Rows } from "../types.d.ts" */
import { h } from "../draw/dom.js";
import { whole } from "../draw/text.js";
import { copyText, neighbourStep, valuesAtStep } from "./values.js";

/** @typedef {{ rows: Rows, layers: Layer[], step: number, lastStep: number, few: import("./values.js").Few }} Shown */

export class InspectorTable {
  /** @type {Shown | null} */ #shown = null;
  /** @type {(step: number) => void} */ #pin;
  #table = h("table");
  element = h("div", {
    class: "inspector-table",
    tabIndex: 0,
    role: "region",
    "aria-label": "values at a step; left and right arrow move the step",
  });
  copy = h(
    "button",
    { type: "button", title: "copy the values with all digits", onclick: () => this.#copy() },
    "copy values",
  );

  /** @param {(step: number) => void} pin */
  constructor(pin) {
    this.#pin = pin;
    this.element.append(this.#table);
    this.element.addEventListener("keydown", (press) => this.#press(press));
  }

  /** @param {Shown} shown */
  show(shown) {
    this.#shown = shown;
    const { rows, layers, step, lastStep, few } = shown;
    const names = ["statistic", "at", ...layers.map(({ name }) => name)];
    const heads = names.map((text) => h("th", { scope: "col" }, text));
    const lines = valuesAtStep(rows, layers, step, lastStep, few).map(({ stat, when, cells }) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, stat),
        h("td", { class: "faint" }, when),
        ...cells.map((text) => h("td", {}, text)),
      ),
    );
    this.#table.replaceChildren(
      h("caption", {}, `values at step ${whole(step)}`),
      h("thead", {}, h("tr", {}, ...heads)),
      h("tbody", {}, ...lines),
    );
  }

  async #copy() {
    if (!this.#shown) return;
    const { rows, layers, step, lastStep, few } = this.#shown;
    await navigator.clipboard.writeText(copyText(valuesAtStep(rows, layers, step, lastStep, few), layers));
    this.copy.textContent = "copied";
    setTimeout(() => this.copy.replaceChildren("copy values"), 2000);
  }

  /** @param {KeyboardEvent} press */
  #press(press) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[press.key];
    if (!by || !this.#shown?.rows.norm || press.ctrlKey || press.metaKey || press.altKey) return;
    press.preventDefault();
    press.stopPropagation(); // the page's own arrows pan
    this.#pin(neighbourStep(this.#shown.rows, this.#shown.step, by));
  }
}
