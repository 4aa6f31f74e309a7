// The events as a list of buttons. A click leads to the step and the parameter.
/** @import { RunEvent } from "../types.d.ts" */
import { h, markCurrent, prose } from "../draw/dom.js";
import { steps } from "../draw/text.js";
import { madeAgain } from "../state/events.js";

const SHAPES = { critical: "▲", warning: "◆", info: "●" };
const AT_FIRST = 100; // events listed until the reader asks for more

/**
 * @typedef {object} Shown
 * @property {RunEvent[]} events
 * @property {number} hidden how many milder ones were not sent
 * @property {string[]} optimizers of the run
 * @property {RunEvent | null} chosen
 */
/** @type {Shown} */
const NONE = { events: [], hidden: 0, optimizers: [], chosen: null };

export class EventList {
  /** @type {(event: RunEvent) => void} */ #choose;
  /** @type {Shown} */ #shown = NONE;
  /** @type {HTMLButtonElement[]} */ #buttons = [];
  #drawn = "";
  #all = false;
  #list = h("ol", { class: "events" });
  #heading = h("h2", {}, "Events");
  #more = h("button", { type: "button", class: "plain", onclick: () => this.#showAll() });

  /** @param {{ chooseEvent(event: RunEvent): void }} on */
  constructor(on) {
    this.#choose = on.chooseEvent;
    this.element = h("section", { "aria-label": "List of events" }, this.#heading, this.#list, this.#more);
  }

  /**
   * Buttons of the same events stay as they are, so that the keyboard's focus stays.
   *
   * @param {Shown} shown
   */
  show(shown = NONE) {
    this.#shown = shown;
    const drawn = JSON.stringify([shown.events, shown.hidden, this.#all]);
    if (drawn !== this.#drawn) this.#draw(shown);
    this.#drawn = drawn;
    for (const [i, button] of this.#buttons.entries()) markCurrent(button, shown.events[i] === shown.chosen);
  }

  /** @param {Shown} shown */
  #draw({ events, hidden, optimizers }) {
    this.#heading.textContent = events.length ? `Events (${events.length + hidden})` : "Events";
    const listed = this.#all ? events : events.slice(0, AT_FIRST);
    const several = optimizers.length > 1 || new Set(events.map((event) => event.optimizer)).size > 1;
    this.#buttons = listed.map((event, i) => this.#button(event, i, several));
    this.#list.replaceChildren(...this.#buttons.map((button) => h("li", {}, button)));
    if (!events.length) this.#list.replaceChildren(h("li", { class: "faint" }, "None."));
    const left = events.length - listed.length;
    this.#more.hidden = !left && !hidden;
    this.#more.disabled = !left;
    this.#more.textContent = left ? `Show ${left} more` : `${hidden} milder ones: gradwatch events`;
  }

  #showAll() {
    this.#all = true;
    this.show(this.#shown);
  }

  /** @param {RunEvent} event @param {number} i @param {boolean} several optimizers */
  #button(event, i, several) {
    const again = madeAgain(event);
    const whose = several ? `, optimizer ${event.optimizer}` : "";
    return h(
      "button",
      { type: "button", class: `event ${event.severity}`, onclick: () => this.#choose(this.#shown.events[i]) },
      h("span", { class: "shape", "aria-hidden": "true" }, SHAPES[event.severity]),
      h("strong", {}, `${event.severity} ${event.kind}`),
      ` ${steps(event.step, event.until ?? event.step)}${whose}${again && `, ${again}`}`,
      h("span", { class: "message" }, ...prose(event.message)),
    );
  }
}
