// One sample of the entries by magnitude as a table, folded until it is wanted.
/** @import { Magnitudes } from "../types.d.ts" */
import { h } from "../draw/dom.js";
import { rowsAt } from "./text.js";

export class MagnitudesTable {
  #table = h("table");
  /** @type {() => void} */ #fill = () => {};
  element = h(
    "details",
    {},
    h("summary", {}, "as a table"),
    h("div", { class: "table-view", tabIndex: 0, role: "region", "aria-label": "entries by magnitude" }, this.#table),
  );

  constructor() {
    this.element.addEventListener("toggle", () => this.#fill());
  }

  /** @param {Magnitudes} magnitudes @param {number} sample @param {string} caption */
  show(magnitudes, sample, caption) {
    this.#fill = () => {
      if (!this.element.open) return;
      const heads = ["magnitude", "entries", "share"].map((name) => h("th", { scope: "col" }, name));
      const rows = (sample < 0 ? [] : rowsAt(magnitudes, sample)).map(([bin, ...cells]) =>
        h("tr", {}, h("th", { scope: "row" }, bin), ...cells.map((cell) => h("td", {}, cell))),
      );
      this.#table.replaceChildren(
        h("caption", {}, caption),
        h("thead", {}, h("tr", {}, ...heads)),
        h("tbody", {}, ...rows),
      );
    };
    this.#fill();
  }
}
