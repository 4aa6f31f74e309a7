// Two quantities of each step against one another: points to select, which are then marked in the charts and the layers.
/** @import { Range, State, StepActions, Theme } from "../types.d.ts" */
/** @import { Cloud, Sampled } from "./values.js" */
/** @import { Drawn } from "./words.js" */
import { paintOn } from "../draw/canvas.js";
import { h } from "../draw/dom.js";
import { memo } from "../state/memo.js";
import { ScatterControls } from "./controls.js";
import { followPlot } from "./gestures.js";
import { drawScatter, HEIGHT } from "./picture.js";
import { pointText } from "./text.js";
import { axesOf, cloudOf, offered, QUANTITIES, selectedIn, stepsOf } from "./values.js";
import { ScatterWords } from "./words.js";

/** @typedef {{ state: State, runs: Sampled[], range: Range, theme: Theme }} Shown */
/** @typedef {StepActions & { look(change: Partial<Pick<State, "plot" | "tint" | "brush" | "pin">>): void }} Actions */

/** @type {{ all: number[], focused: number[] }} */
const NOTHING = { all: [], focused: [] };

export class ScatterPart {
  /** @type {Actions} */ #on;
  /** @type {Shown | null} */ #shown = null;
  /** @type {Drawn | null} */ #drawn = null;
  /** @type {ScatterControls} */ #controls;
  /** @type {ScatterWords} */ #words;
  #canvas = h("canvas", { class: "scatter", tabIndex: 0, role: "application" });
  #ring = h("div", { class: "scatter-ring", hidden: true });
  #readout = h("p", { class: "readout", role: "status" });

  /** @param {Actions} on */
  constructor(on) {
    this.#on = on;
    this.#controls = new ScatterControls(on.look);
    this.#words = new ScatterWords(
      () => on.look({ brush: null }),
      () => this.#zoom(),
    );
    const rubber = h("div", { class: "scatter-rubber", hidden: true });
    const close = h("button", { type: "button", onclick: () => on.look({ plot: "", brush: null }) }, "close");
    this.element = h(
      "section",
      { class: "scatter", "aria-label": "Scatter", hidden: true },
      h("div", { class: "story-head" }, h("h2", {}, "Scatter"), close),
      this.#controls.element,
      h("div", { class: "scatter-box" }, this.#canvas, this.#ring, rubber, this.#words.table),
      this.#readout,
      this.#words.selection,
      this.#words.told,
    );
    followPlot(this.#canvas, {
      cloud: () => this.#drawn?.cloud ?? null,
      point: (found) => this.#point(found),
      pin: (point) => this.#drawn && on.look({ pin: this.#drawn.cloud.step[point] }),
      select: (brush) => on.look({ brush }),
      isSelected: () => this.#shown?.state.brush !== null,
      rubber,
    });
  }

  /**
   * Shows the points of the runs whose samples have arrived.
   *
   * @param {Shown} shown
   */
  show(shown) {
    const last = this.#shown;
    this.#shown = shown;
    const { state, runs, range, theme } = shown;
    this.element.hidden = !state.plot;
    this.element.classList.toggle("waiting", state.plot !== "" && !runs.length);
    if (this.element.hidden || !runs.length) return; // its room is kept until the points arrive
    const names = this.#offered(runs);
    const axes = this.#axes(state.plot, names);
    if (!axes) return this.#showNothing();
    const cloud = this.#cloud(runs, axes, range);
    const selected = this.#selected(cloud, state.brush);
    this.#drawn = { cloud, axes, selected, steps: this.#steps(cloud, selected) };
    this.#controls.choose(names, axes, state.tint);
    if (last?.theme === theme && last.state === state && last.runs === runs && last.range === range) return;
    this.#controls.explain(cloud, state.tint, theme);
    const [x, y] = axes.map((name) => QUANTITIES[name].label);
    const told = this.#words.show(this.#drawn, range, state.brush !== null);
    this.#canvas.setAttribute("aria-label", `${y} against ${x}: ${told}`);
    this.resize();
  }

  #offered = memo(offered);
  #axes = memo(axesOf);
  #cloud = memo(cloudOf);
  #selected = memo(selectedIn);
  #steps = memo((/** @type {Cloud} */ cloud, /** @type {number[]} */ points) => stepsOf(cloud, points));
  #ofFocus = memo((/** @type {Cloud} */ cloud, /** @type {number[]} */ points) =>
    stepsOf(cloud, points, (run) => run.focused),
  );

  /** The steps selected: of all runs, and of the one in the focus. */
  get selected() {
    if (!this.#drawn?.selected.length || this.element.hidden) return NOTHING;
    const { cloud, selected, steps } = this.#drawn;
    return { all: steps, focused: this.#ofFocus(cloud, selected) };
  }

  /** Draws again, at the width that there is now. */
  resize() {
    const width = this.#canvas.parentElement?.clientWidth ?? 0;
    if (!this.#drawn || !this.#shown || !width) return;
    const { cloud, axes, selected } = this.#drawn;
    const { state, theme } = this.#shown;
    const [x, y] = axes.map((name) => QUANTITIES[name].label);
    const { brush, tint } = state;
    paintOn(this.#canvas, width, HEIGHT, (ctx) =>
      drawScatter(ctx, { cloud, labels: [x, y], selected, brush, tint, width, theme }),
    );
  }

  #showNothing() {
    this.#drawn = null;
    this.#canvas.height = 0;
    this.#canvas.style.height = "0";
    this.#canvas.setAttribute("aria-label", "nothing to draw");
    this.#words.showNothing();
  }

  /** Rings a point, tells it, and shows its step everywhere. @param {{ point: number, at: [number, number] } | null} found */
  #point(found) {
    this.#ring.hidden = !found;
    const drawn = this.#drawn;
    this.#readout.textContent = found && drawn ? pointText(drawn.cloud, found.point, drawn.axes) : "";
    this.#on.point(found && drawn ? drawn.cloud.step[found.point] : null);
    if (found) [this.#ring.style.left, this.#ring.style.top] = found.at.map((px) => `${px}px`);
  }

  #zoom() {
    const steps = this.#drawn?.steps ?? [];
    if (steps.length) this.#on.zoomTo(steps[0] - 0.5, steps[steps.length - 1] + 0.5);
  }
}
