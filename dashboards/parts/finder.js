// The search for runs, above their list: it is there where there are many.
import { h } from "../draw/dom.js";
import { count, whole } from "../draw/text.js";
import { KINDS } from "../state/found.js";

const FEW = 8; // runs that need no search

/** @typedef {{ find: string, kind: string, runs: number, matching: number }} Shown */

export class RunFinder {
  #find = h("input", {
    type: "search",
    placeholder: "regular expression",
    spellcheck: false,
    "aria-label": "find runs",
  });
  #kind = h(
    "select",
    { "aria-label": "kind of runs" },
    Object.entries(KINDS).map(([value, { label }]) => h("option", { value }, label)),
  );
  #told = h("p", { class: "faint", role: "status" });

  /** @param {{ look(change: { find?: string, kind?: string }): void }} on */
  constructor({ look }) {
    this.#find.oninput = () => look({ find: this.#find.value });
    this.#kind.onchange = () => look({ kind: this.#kind.value });
    this.element = h("div", { class: "finder" }, this.#find, this.#kind, this.#told);
  }

  /** @param {Shown} shown */
  show({ find, kind, runs, matching }) {
    this.element.hidden = runs <= FEW && !find && kind === "all";
    if (this.#find.value !== find) this.#find.value = find;
    this.#kind.value = KINDS[kind] ? kind : "all";
    this.#told.textContent = matching === runs ? count(runs, "run") : `${whole(matching)} of ${count(runs, "run")}`;
  }
}
