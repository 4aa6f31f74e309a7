// Beside the ratio of two runs: which runs they are, and where they part.
/** @import { Other, State, StepActions } from "../types.d.ts" */
/** @import { Statistic } from "../heat/statistics.js" */
import { h } from "../draw/dom.js";
import { whole } from "../draw/text.js";
import { surrounded } from "../state/range.js";
import { drawn } from "../state/state.js";

/** @typedef {Pick<StepActions, "zoomTo"> & { look(change: Partial<Pick<State, "against" | "layer" | "pin">>): void }} Actions */

export class PartingNote {
  /** @type {Actions} */ #on;
  #select = h("select", { "aria-label": "run to compare with" });
  #said = h("span", {});
  #settings = h("p", { class: "faint" });
  #go = h("button", { type: "button" });

  /** @param {Actions} on */
  constructor(on) {
    this.#on = on;
    this.#select.onchange = () => on.look({ against: this.#select.value });
    this.element = h(
      "div",
      { class: "parting", role: "group", "aria-label": "Difference of two runs", hidden: true },
      h("p", {}, "compared with ", this.#select, " ", this.#said, " ", this.#go),
      this.#settings,
    );
  }

  /**
   * Shows where the runs part, if the statistic is a comparison.
   *
   * @param {State} state
   * @param {Statistic} look
   * @param {Other | null} other null until it arrives
   * @returns {number | null} the step
   */
  show(state, { against = false }, other) {
    this.element.hidden = !against || !other;
    if (!against || !other) return null;
    const names = drawn(state).filter((name) => name !== state.focus);
    const same =
      names.length === this.#select.options.length && names.every((n, i) => this.#select.options[i].value === n);
    if (!same) this.#select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    this.#select.value = other.name;
    const { step, parameter, said, settings } = other.parting;
    this.#said.textContent = `${said.join("; ")}.`;
    this.#settings.hidden = !settings.length;
    this.#settings.textContent = `settings that differ: ${settings.join("; ")}`;
    this.#go.hidden = step === null;
    if (step === null) return null;
    this.#go.textContent = `to step ${whole(step)}`;
    this.#go.onclick = () => {
      this.#on.look({ pin: step, layer: parameter ?? state.layer });
      this.#on.zoomTo(...surrounded(step, step));
    };
    return step;
  }
}
