// The list of runs: a tick draws a run, a click puts it in the focus.
/** @import { ListedRun, Theme } from "../types.d.ts" */
import { runColour } from "../draw/colours.js";
import { h, markCurrent } from "../draw/dom.js";
import { foundRuns } from "../state/found.js";
import { MOST_RUNS } from "../state/state.js";
import { RunFinder } from "./finder.js";
import { RunTable } from "./runtable.js";

const AT_FIRST = 100; // runs listed until the reader asks for more

/**
 * @typedef {object} Shown
 * @property {ListedRun[]} runs
 * @property {(string | null)[]} slots the runs drawn, by colour
 * @property {string | null} focus
 * @property {string} find a regular expression for names
 * @property {string} kind of runs
 * @property {boolean} table whether to show them as a table, too
 * @property {string} sort the column that the table is sorted by
 * @property {Theme} theme
 */
/** @type {(keyof Shown)[]} */
const KEYS = ["runs", "slots", "focus", "find", "kind", "table", "sort", "theme"];
/**
 * @typedef {object} Entry
 * @property {HTMLElement} element
 * @property {HTMLInputElement} tick
 * @property {HTMLElement} key
 * @property {HTMLElement} state
 * @property {HTMLElement} button
 */

export class RunList {
  /** @type {{ toggleRun(name: string): void, focusRun(name: string): void }} */ #on;
  /** @type {Map<string, Entry>} */ #entries = new Map();
  /** @type {Shown | null} */ #shown = null;
  /** @type {RunFinder} */ #finder;
  #most = AT_FIRST;
  #list = h("ul", { class: "runs" });
  #more = h("button", { type: "button", class: "plain", onclick: () => this.#showAll() });

  /**
   * @param {{
   *   toggleRun(name: string): void,
   *   focusRun(name: string): void,
   *   look(change: { find?: string, kind?: string, table?: boolean, sort?: string }): void,
   * }} on
   */
  constructor(on) {
    this.#on = on;
    this.#finder = new RunFinder(on);
    this.table = new RunTable(on);
    this.element = h("div", {}, this.#finder.element, this.#list, this.#more);
  }

  /**
   * An entry stays while its run does, so that what has the keyboard's focus keeps it.
   *
   * @param {Shown} shown
   */
  show(shown) {
    const last = this.#shown;
    this.#shown = shown;
    if (last && KEYS.every((key) => last[key] === shown[key])) return;
    const { runs, slots, focus, find, kind, table, sort, theme } = shown;
    const { listed, matching, left } = foundRuns(runs, find, kind, [...slots, focus], this.#most);
    this.#finder.show({ find, kind, table, runs: runs.length, matching });
    this.table.element.hidden = !table;
    if (table)
      this.table.show({ ...foundRuns(runs, find, kind, [...slots, focus], Infinity), slots, focus, sort, theme });
    this.#more.hidden = !left;
    this.#more.textContent = `Show ${left} more`;
    this.#entries = new Map(listed.map(({ name }) => [name, this.#entries.get(name) ?? this.#make(name)]));
    const elements = [...this.#entries.values()].map((entry) => entry.element);
    const { children } = this.#list;
    if (elements.length !== children.length || elements.some((element, i) => element !== children[i]))
      this.#list.replaceChildren(...elements);
    const full = slots.filter((name) => name !== null).length >= MOST_RUNS;
    for (const run of listed) this.#describe(run, slots.indexOf(run.name), full, run.name === focus, theme);
  }

  #showAll() {
    this.#most = Infinity;
    const shown = this.#shown;
    this.#shown = null;
    if (shown) this.show(shown);
  }

  /** @param {ListedRun} run @param {number} slot @param {boolean} full @param {boolean} focused @param {Theme} theme */
  #describe(run, slot, full, focused, theme) {
    const entry = /** @type {Entry} */ (this.#entries.get(run.name));
    entry.tick.checked = slot >= 0;
    entry.tick.disabled = full && slot < 0;
    entry.tick.title = entry.tick.disabled ? `${MOST_RUNS} runs are drawn, as many as can be told apart` : "";
    entry.key.style.background = slot >= 0 ? runColour(slot, theme) : "transparent";
    entry.state.textContent = stateOf(run);
    entry.state.className = `state ${run.verdict ?? (run.error ? "critical" : "unknown")}`;
    entry.button.title = run.error ?? run.name;
    markCurrent(entry.button, focused);
  }

  /** @param {string} name @returns {Entry} */
  #make(name) {
    const toggle = () => this.#on.toggleRun(name);
    const tick = h("input", { type: "checkbox", "aria-label": `draw ${name}`, onchange: toggle });
    const key = h("span", { class: "key" });
    const state = h("span");
    const button = h("button", { type: "button", class: "run", onclick: () => this.#on.focusRun(name) }, name, state);
    return { element: h("li", {}, tick, key, button), tick, key, state, button };
  }
}

/** @param {ListedRun} run */
function stateOf(run) {
  if (run.error) return "can't be read";
  const verdict = run.verdict ?? (run.pending ? "being diagnosed" : "no step yet");
  return run.running ? `${verdict}, recording` : verdict;
}
