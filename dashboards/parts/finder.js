// The search for runs, above their list: it appears if there are many.
import { h } from "../draw/dom.js";
import { count, whole } from "../draw/text.js";
import { KINDS } from "../state/found.js";

const FEW = 8; // runs that need no search

/** @typedef {{ find: string, kind: string, table: boolean, runs: number, matching: number }} Shown */

export class RunFinder {
  #find = h("input", {
    type: "search",
    placeholder: "name or regex",
    spellcheck: false,
    "aria-label": "find runs",
  });
  #kind = h(
    "select",
    { "aria-label": "kind of runs" },
    Object.entries(KINDS).map(([value, { label }]) => h("option", { value }, label)),
  );
  #told = h("span", { class: "faint", role: "status" });
  #table = h("input", { type: "checkbox" });
  #search = h("div", { class: "search" }, this.#find, this.#kind);

  /** @param {{ look(change: { find?: string, kind?: string, table?: boolean }): void }} on */
  constructor({ look }) {
    this.#table.onchange = () => look({ table: this.#table.checked });
    this.#find.oninput = () => look({ find: this.#find.value });
    this.#kind.onchange = () => look({ kind: this.#kind.value });
    const asTable = h("label", {}, this.#table, " as a table");
    this.element = h("div", { class: "finder" }, this.#search, h("div", { class: "told" }, this.#told, asTable));
  }

  /** @param {Shown} shown */
  show({ find, kind, table, runs, matching }) {
    this.element.hidden = runs < 2;
    this.#search.hidden = runs <= FEW && !find && kind === "all";
    this.#table.checked = table;
    if (this.#find.value !== find) this.#find.value = find;
    this.#kind.value = KINDS[kind] ? kind : "all";
    this.#told.textContent = matching === runs ? count(runs, "run") : `${whole(matching)} of ${count(runs, "run")}`;
  }
}
