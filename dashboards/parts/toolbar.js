// Buttons that move through the steps, and the steps shown.
/** @import { Range, Series, StepActions } from "../types.d.ts" */
import { h } from "../draw/dom.js";
import { steps, whole } from "../draw/text.js";
import { KINDS } from "../export/save.js";
import { FIRST } from "../scatter/values.js";
import { wholeSteps } from "../state/range.js";

export class Toolbar {
  #span = h("span", { class: "span" });
  #wholeAxis = h("input", { type: "checkbox" });
  /** @type {HTMLSelectElement} */ #saver;
  #tables = h("button", { type: "button", title: "a table below each chart and the layers" }, "tables");
  #scatter = h("button", { type: "button", title: "norm against loss, learning rate or update ratio" }, "scatter");

  /**
   * @param {StepActions & {
   *   look(change: { wholeAxis: boolean } | { tables: boolean } | { plot: string, brush: null }): void,
   *   link(): string,
   *   save(kind: string): void,
   * }} on
   */
  constructor(on) {
    /** @param {string} label @param {string} title @param {() => void} onclick */
    const button = (label, title, onclick) =>
      h("button", { type: "button", "aria-label": title, title, onclick }, label);
    this.#wholeAxis.onchange = () => on.look({ wholeAxis: this.#wholeAxis.checked });
    const plot = () => on.look({ plot: this.#scatter.ariaPressed === "true" ? "" : FIRST, brush: null });
    this.#scatter.onclick = plot;
    this.#tables.onclick = () => on.look({ tables: this.#tables.ariaPressed !== "true" });
    this.#saver = saver(on.save);
    const cut = "An axis ends at 100 times the median; ▲ marks what rises above it.";
    this.element = h(
      "div",
      { class: "toolbar", role: "toolbar", "aria-label": "Steps shown" },
      button("◀", "earlier steps (left arrow)", () => on.pan(-0.5)),
      button("▶", "later steps (right arrow)", () => on.pan(0.5)),
      button("+", "fewer steps (+)", () => on.zoomBy(0.5)),
      button("−", "more steps (-)", () => on.zoomBy(2)),
      button("all", "the whole run (0)", () => on.showAll()),
      this.#span,
      h("label", { title: cut }, this.#wholeAxis, " whole y axis"),
      this.#scatter,
      this.#tables,
      this.#copy(on.link),
      this.#saver,
      h(
        "span",
        { class: "faint" },
        "drag to zoom, with Shift over values; on the layers drag to pan, Ctrl and wheel to zoom",
      ),
    );
  }

  /** @param {() => string} link empty where no address leads to the page */
  #copy(link) {
    const copy = async () => {
      await navigator.clipboard.writeText(link());
      button.textContent = "copied";
      setTimeout(() => button.replaceChildren("copy link"), 2000);
    };
    const title = "copy a link to what is shown";
    const button = h("button", { type: "button", title, hidden: link() === "", onclick: copy }, "copy link");
    return button;
  }

  /** @param {{ range: Range, series: Series, wholeAxis: boolean, plot: string, tables: boolean }} shown */
  show({ range, series, wholeAxis, plot, tables }) {
    this.#wholeAxis.checked = wholeAxis;
    this.#scatter.ariaPressed = String(plot !== "");
    this.#tables.ariaPressed = String(tables);
    for (const option of this.#saver.options) option.disabled = option.value === "points" && plot === "";
    const joined = series.first.length > 2 ? series.last[1] - series.first[1] + 1 : 1;
    const columns = joined > 1 ? `; a column is ${whole(joined)} steps, drawn from the lowest to the highest` : "";
    this.#span.textContent = `${steps(...wholeSteps(range))}${columns}`;
  }
}

/** @param {(kind: string) => void} save */
function saver(save) {
  const kinds = Object.entries(KINDS).map(([value, { label }]) => h("option", { value }, label));
  const select = h("select", { "aria-label": "save what is in view" }, h("option", { value: "" }, "save…"), kinds);
  select.onchange = () => {
    save(select.value);
    select.value = "";
  };
  return select;
}

/**
 * The keys that move through steps and events, and Enter, which pins the step at the pointer.
 *
 * @param {KeyboardEvent} event
 * @param {StepActions & { pin(): void, nextEvent(by: number): void, closeEvent(): void }} on
 */
export function handleKey(event, on) {
  const typing = event.target instanceof Element && event.target.matches("input, select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  /** @type {Record<string, () => void>} */
  const moves = {
    ArrowLeft: () => on.pan(-0.25),
    ArrowRight: () => on.pan(0.25),
    "+": () => on.zoomBy(0.5),
    "=": () => on.zoomBy(0.5),
    "-": () => on.zoomBy(2),
    0: () => on.showAll(),
    Enter: () => on.pin(),
    "[": () => on.nextEvent(-1),
    "]": () => on.nextEvent(1),
    Escape: () => on.closeEvent(),
  };
  const presses =
    event.key === "Enter" && event.target instanceof Element && event.target.matches("button, summary, a");
  if (!moves[event.key] || presses) return;
  event.preventDefault();
  moves[event.key]();
}
