// Below the scatter plot: what is selected, what is drawn and what can't be, and a table for those who can't see it.
/** @import { Range } from "../types.d.ts" */
/** @import { Cloud } from "./values.js" */
import { h } from "../draw/dom.js";
import { coverage, selectionText, tableOf } from "./text.js";

const HINT = "Drag to select. Arrow keys move from point to point; with Shift they select. Enter pins the step.";

/** @typedef {{ cloud: Cloud, axes: [x: string, y: string], selected: number[], steps: number[] }} Drawn */

export class ScatterWords {
  #selection = h("p");
  #clear;
  #zoom;
  told = h("div", { class: "faint" });
  #table = h("table");
  table = h("div", { class: "unseen" }, this.#table);

  /** @param {() => void} clear @param {() => void} zoom */
  constructor(clear, zoom) {
    this.#clear = h("button", { type: "button", onclick: clear }, "clear the selection");
    this.#zoom = h("button", { type: "button", onclick: zoom }, "zoom to its steps");
    this.selection = h("div", { class: "selected" }, this.#selection, this.#clear, this.#zoom);
  }

  /** There are no two quantities. */
  showNothing() {
    this.told.textContent = "Fewer than two quantities were recorded: there is nothing to draw.";
    this.#table.replaceChildren();
    this.#selection.textContent = "";
    this.#clear.hidden = this.#zoom.hidden = true;
  }

  /**
   * @param {Drawn} drawn
   * @param {Range} range
   * @param {boolean} brushed whether there is a selection
   * @returns {string} all that is told, as a label
   */
  show({ cloud, axes, selected, steps }, range, brushed) {
    const sentences = [...coverage(cloud, axes, range), HINT];
    this.told.replaceChildren(...sentences.map((text) => h("p", {}, text)));
    this.#selection.textContent = brushed ? selectionText(cloud, selected, steps) : "";
    this.#clear.hidden = !brushed;
    this.#zoom.hidden = !steps.length;
    const { caption, rows } = tableOf(cloud, selected, axes);
    const [heads, ...lines] = rows.map((cells, i) =>
      h("tr", {}, ...cells.map((cell) => (i ? h("td", {}, cell) : h("th", { scope: "col" }, cell)))),
    );
    this.#table.replaceChildren(h("caption", {}, caption), h("thead", {}, heads), h("tbody", {}, ...lines));
    return sentences.join(" ");
  }
}
