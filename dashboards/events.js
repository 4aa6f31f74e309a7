// The events as a list of buttons; a click leads to the step and the parameter.
import { h, whole } from "./text.js";

const SHAPES = { critical: "▲", warning: "◆", info: "●" };
const MANY = 100;

export class Events {
  constructor(page) {
    this.page = page;
    this.all = false;
    this.list = h("ol", { class: "events" });
    this.head = h("h2", {}, "Events");
    this.more = h("button", { type: "button", class: "plain", onclick: () => this.#showAll() });
    this.element = h("section", { "aria-label": "Events" }, this.head, this.list, this.more);
  }

  show({ events, events_hidden: hidden, optimizers }) {
    const given = JSON.stringify([events, hidden, this.all]);
    if (given === this.drawn) return this.#again(events);
    this.drawn = given;
    this.given = { events, events_hidden: hidden, optimizers };
    this.head.textContent = events.length ? `Events (${events.length + hidden})` : "Events";
    const shown = this.all ? events : events.slice(0, MANY);
    this.buttons = new Map();
    this.list.replaceChildren(...shown.map((event) => h("li", {}, this.#button(event, optimizers))));
    if (!events.length) this.list.replaceChildren(h("li", { class: "faint" }, "None."));
    const left = events.length - shown.length;
    this.more.hidden = !left && !hidden;
    this.more.disabled = !left;
    this.more.textContent = left ? `Show ${left} more` : `${hidden} milder ones: gradwatch events`;
  }

  /** The same events, told anew: their buttons stay, with the focus where it is. */
  #again(events) {
    const buttons = [...this.buttons.values()];
    this.buttons = new Map(buttons.map((button, i) => [events[i], button]));
    this.given.events = events;
  }

  #showAll() {
    this.all = true;
    this.show(this.given);
  }

  #button(event, optimizers) {
    const lasted = event.until === null || event.until === event.step ? "" : ` to ${whole(event.until)}`;
    const whose = optimizers.length > 1 ? `, optimizer ${event.optimizer}` : "";
    const button = h(
      "button",
      { type: "button", class: `event ${event.severity}`, onclick: () => this.page.choose(this.#of(button)) },
      h("span", { class: "shape", "aria-hidden": "true" }, SHAPES[event.severity]),
      h("strong", {}, `${event.severity} ${event.kind}`),
      ` step ${whole(event.step)}${lasted}${whose}`,
      h("span", { class: "message" }, event.message),
    );
    this.buttons.set(event, button);
    return button;
  }

  #of(button) {
    return [...this.buttons].find(([, one]) => one === button)[0];
  }

  mark(chosen) {
    for (const [event, button] of this.buttons ?? []) {
      if (event === chosen) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }
}
