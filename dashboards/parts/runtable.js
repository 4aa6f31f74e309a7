// The runs as a table: one row for each, sorted by a click on a column's head.
/** @import { ListedRun, Theme } from "../types.d.ts" */
/** @import { Column } from "../state/runtable.js" */
import { runColour } from "../draw/colours.js";
import { h } from "../draw/dom.js";
import { whole } from "../draw/text.js";
import { columnsOf, nextSort, sorted } from "../state/runtable.js";

const MOST_ROWS = 200; // more are counted

/**
 * @typedef {object} Shown
 * @property {ListedRun[]} listed
 * @property {(string | null)[]} slots
 * @property {string | null} focus
 * @property {string} sort
 * @property {Theme} theme
 */

export class RunTable {
  /** @type {{ focusRun(name: string): void, look(change: { sort: string }): void }} */ #on;
  #table = h("table");

  /** @param {{ focusRun(name: string): void, look(change: { sort: string }): void }} on */
  constructor(on) {
    this.#on = on;
    const look = { class: "run-table", tabIndex: 0, role: "region", "aria-label": "Table of runs" };
    this.element = h("div", { ...look, hidden: true }, this.#table);
  }

  /** @param {Shown} shown */
  show({ listed, slots, focus, sort, theme }) {
    const columns = columnsOf(listed);
    const focused = document.activeElement?.getAttribute("data-key") ?? null;
    const heads = columns.map((column) => this.#head(column, sort));
    const rows = sorted(listed, columns, sort)
      .slice(0, MOST_ROWS)
      .map((run) => {
        const slot = slots.indexOf(run.name);
        const colour = slot < 0 ? "transparent" : runColour(slot, theme);
        return this.#row(run, columns, colour, run.name === focus);
      });
    const left = listed.length - rows.length;
    const more = h("p", { class: "faint", hidden: left === 0 }, `${whole(left)} more: sort, or narrow the search`);
    this.#table.replaceChildren(h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...rows));
    this.element.replaceChildren(this.#table, more);
    if (focused !== null) this.#focusAgain(focused);
  }

  /** A head that was clicked keeps the keyboard's focus. @param {string} key */
  #focusAgain(key) {
    const again = [...this.#table.querySelectorAll("[data-key]")].find((one) => one.getAttribute("data-key") === key);
    if (again instanceof HTMLElement) again.focus();
  }

  /** @param {Column} column @param {string} sort */
  #head(column, sort) {
    const { key, label, words = false } = column;
    const order = sort === key ? "ascending" : sort === `-${key}` ? "descending" : "none";
    const arrow = { ascending: " ▲", descending: " ▼", none: "" }[order];
    const click = () => this.#on.look({ sort: nextSort(sort, column) });
    const button = h("button", { type: "button", class: "bare", "data-key": key, onclick: click }, label, arrow);
    return h("th", { scope: "col", "aria-sort": order, class: words ? "text" : "" }, button);
  }

  /** @param {ListedRun} run @param {Column[]} columns @param {string} colour @param {boolean} focused */
  #row(run, [name, ...others], colour, focused) {
    const choose = () => this.#on.focusRun(run.name);
    const key = `run ${run.name}`;
    const button = h(
      "button",
      { type: "button", class: "bare", "data-key": key, title: run.error, onclick: choose },
      name.text(run),
    );
    const first = h("th", { scope: "row" }, h("span", { class: "key", style: `background:${colour}` }), button);
    const cells = others.map((column) => {
      const grave = column.key === "verdict" ? ` verdict-${run.verdict ?? "unknown"}` : "";
      return h("td", { class: (column.words ? "text" : "") + grave }, column.text(run));
    });
    return h("tr", { class: focused ? "focus" : "" }, first, ...cells);
  }
}
