// The list of runs: a tick draws a run, a click puts it in the focus.
/** @import { ListedRun, Theme } from "../types.d.ts" */
import { runColour } from "../draw/colours.js";
import { h, markCurrent } from "../draw/dom.js";
import { MOST_RUNS } from "../state/state.js";

/**
 * @typedef {object} Shown
 * @property {ListedRun[]} runs
 * @property {(string | null)[]} slots the runs drawn, by colour
 * @property {string | null} focus
 * @property {Theme} theme
 */
/** @typedef {{ element: HTMLElement, tick: HTMLInputElement, key: HTMLElement, state: HTMLElement, button: HTMLElement }} Entry */

export class RunList {
  /** @type {{ toggleRun(name: string): void, focusRun(name: string): void }} */ #on;
  /** @type {Map<string, Entry>} */ #entries = new Map();

  /** @param {{ toggleRun(name: string): void, focusRun(name: string): void }} on */
  constructor(on) {
    this.#on = on;
    this.element = h("ul", { class: "runs" });
  }

  /**
   * An entry stays while its run does, so that what has the keyboard's focus keeps it.
   *
   * @param {Shown} shown
   */
  show({ runs, slots, focus, theme }) {
    this.#entries = new Map(runs.map(({ name }) => [name, this.#entries.get(name) ?? this.#make(name)]));
    const elements = [...this.#entries.values()].map((entry) => entry.element);
    const { children } = this.element;
    if (elements.length !== children.length || elements.some((element, i) => element !== children[i]))
      this.element.replaceChildren(...elements);
    const full = slots.filter((name) => name !== null).length >= MOST_RUNS;
    for (const run of runs) {
      const entry = /** @type {Entry} */ (this.#entries.get(run.name));
      const slot = slots.indexOf(run.name);
      entry.tick.checked = slot >= 0;
      entry.tick.disabled = full && slot < 0;
      entry.tick.title = entry.tick.disabled ? `${MOST_RUNS} runs are drawn, as many as can be told apart` : "";
      entry.key.style.background = slot >= 0 ? runColour(slot, theme) : "transparent";
      entry.state.textContent = stateOf(run);
      entry.state.className = `state ${run.verdict ?? (run.error ? "critical" : "unknown")}`;
      entry.button.title = run.error ?? run.name;
      markCurrent(entry.button, run.name === focus);
    }
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
