// The story of the chosen event, where the reader looks first.
/** @import { Layers, RunEvent, Theme } from "../types.d.ts" */
/** @import { Story } from "../data/pieces.js" */
import { h } from "../draw/dom.js";
import { number, steps, whole } from "../draw/text.js";
import { madeAgain } from "../state/events.js";
import { columnsAround, replayTold, storyRows, storyScalars } from "./story.js";
import { storyTable } from "./table.js";

/** @typedef {{ event: RunEvent | null, story: Story | null, layers: Layers | null, theme: Theme }} Shown */
/** @typedef {{ nextEvent(by: number): void, closeEvent(): void, look(change: { layer: string }): void }} Actions */

export class StoryPart {
  /** @type {Actions} */ #on;
  /** @type {Shown | null} */ #shown = null;
  #heading = h("h2");
  #message = h("p", { "aria-live": "polite" });
  #replay = h("div", { class: "story-replay" });
  #table = h("div", { class: "story-scroll", tabIndex: 0, role: "group", "aria-label": "steps around the event" });

  /** @param {Actions} on */
  constructor(on) {
    this.#on = on;
    /** @param {string} text @param {string} title @param {() => void} onclick */
    const button = (text, title, onclick) => h("button", { type: "button", title, "aria-label": title, onclick }, text);
    const buttons = h(
      "div",
      { class: "story-buttons" },
      button("[ before", "the event before ([)", () => on.nextEvent(-1)),
      button("after ]", "the event after (])", () => on.nextEvent(1)),
      button("close", "close (Escape)", () => on.closeEvent()),
    );
    const head = h("div", { class: "story-head" }, this.#heading, buttons);
    this.element = h(
      "section",
      { class: "story", "aria-label": "What happened" },
      head,
      this.#message,
      this.#replay,
      this.#table,
    );
    this.element.hidden = true;
  }

  /** @param {Shown} shown */
  show(shown) {
    const last = this.#shown;
    this.#shown = shown;
    const { event, story, layers, theme } = shown;
    this.element.hidden = event === null;
    if (event && last?.event !== event) this.element.scrollIntoView?.({ block: "nearest" });
    const same = last?.event === event && last?.story === story && last?.layers === layers && last?.theme === theme;
    if (event === null || same) return;
    this.#heading.textContent = `${event.severity} ${event.kind}, ${steps(event.step, event.until ?? event.step)}`;
    const again = madeAgain(event);
    this.#message.textContent = [event.message, evidence(event), again && `${again}, whose values are shown`]
      .filter(Boolean)
      .join(" · ");
    this.#replay.replaceChildren(...replayed(event));
    this.#table.replaceChildren(...(story && layers ? [this.#tableOf(event, story, layers, theme)] : []));
  }

  /** @param {RunEvent} event @param {Story} story @param {Layers} layers @param {Theme} theme */
  #tableOf(event, { tile, series }, layers, theme) {
    const columns = tile ? columnsAround(tile.arrays, event) : [];
    const rows = tile ? storyRows(tile, columns, layers.layers, event.parameter) : [];
    const scalars = storyScalars(series, event);
    const chooseLayer = (/** @type {string} */ layer) => this.#on.look({ layer });
    return storyTable({ event, columns, rows, scalars, chooseLayer }, theme);
  }
}

/** What the replay of the captured step found. @param {RunEvent} event */
function replayed(event) {
  const told = replayTold(event);
  if (!told) return [];
  const pairs = told.answers.flatMap(({ label, text, isCode }) => [
    h("dt", {}, label),
    h("dd", {}, isCode ? h("code", {}, text) : text),
  ]);
  return [h("h3", {}, `Step ${whole(told.step)}, replayed`), h("dl", {}, ...pairs)];
}

/** What the detector saw. @param {RunEvent} event */
function evidence({ observed, limit, parameter, optimizer }) {
  const parts = [
    parameter ? `in ${parameter}` : "",
    observed !== null && observed !== undefined ? `observed ${number(observed)}` : "",
    limit !== null && limit !== undefined ? `limit ${number(limit)}` : "",
    optimizer === "0" ? "" : `optimizer ${optimizer}`,
  ];
  return parts.filter(Boolean).join(", ");
}
