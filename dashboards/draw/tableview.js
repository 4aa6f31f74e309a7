// A table of what a picture shows, below it, for those who read rather than look.
import { h } from "./dom.js";

export class TableView {
  #table = h("table");
  element = h("div", { class: "table-view", tabIndex: 0, role: "region", hidden: true }, this.#table);

  /**
   * @param {object} shown
   * @param {string} shown.caption
   * @param {string[]} shown.heads
   * @param {string[][]} shown.rows the first cell of each names it
   * @param {string} [shown.note] how to move in it
   */
  show({ caption, heads, rows, note = "" }) {
    this.element.hidden = false;
    this.element.setAttribute("aria-label", `${caption} as a table${note}`);
    const body = rows.map(([name, ...cells]) =>
      h("tr", {}, h("th", { scope: "row" }, name), ...cells.map((cell) => h("td", {}, cell))),
    );
    this.#table.replaceChildren(
      h("caption", {}, `${caption}${note}`),
      h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, ...body),
    );
  }

  hide() {
    this.element.hidden = true;
    this.#table.replaceChildren();
  }
}
