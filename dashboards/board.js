// The parts of the page, where they stand, and what each of them shows.
/** @import { Range, RunEvent, StepActions, Theme } from "./types.d.ts" */
/** @import { Session } from "./session.js" */
import { ink, runColour } from "./draw/colours.js";
import { Charts } from "./parts/charts.js";
import { drawnRuns } from "./parts/drawn.js";
import { emptyPage } from "./parts/empty.js";
import { EventList } from "./parts/events.js";
import { LayersPart } from "./parts/layers.js";
import { layOut } from "./parts/layout.js";

import { RunList } from "./parts/runs.js";
import { ThresholdPart } from "./parts/threshold.js";
import { handleKey, Toolbar } from "./parts/toolbar.js";
import { VerdictPart } from "./parts/verdict.js";
import { memo } from "./state/memo.js";

/** @typedef {import("./actions.js").Actions & Pick<StepActions, "point">} Actions */

export class Board {
  /** @type {HTMLElement} */ #root;
  #live;
  #parts;
  #boxes;

  /**
   * @param {HTMLElement} root the element to fill
   * @param {boolean} live whether there can be several runs
   * @param {Actions} on
   */
  constructor(root, live, on) {
    this.#root = root;
    this.#live = live;
    this.#parts = {
      runs: new RunList(on),
      events: new EventList(on),
      verdict: new VerdictPart(on),
      toolbar: new Toolbar(on),
      charts: new Charts(on),
      layers: new LayersPart(on),
      threshold: new ThresholdPart(on),
    };
    this.#boxes = layOut(this.#parts, live);
    this.#boxes.main.addEventListener("keydown", (event) => handleKey(event, on));
    root.append(this.#boxes.body);
    new ResizeObserver(() => this.#resize()).observe(this.#boxes.main);
  }

  /** @returns {number} how many columns of steps fit */
  get columns() {
    return Math.max(50, Math.min(2000, Math.round(this.#parts.layers.width)));
  }

  /** @param {number | null} step where the pointer is */
  pointAt(step) {
    this.#parts.charts.pointAt(step);
    this.#parts.layers.pointAt(step);
  }

  /**
   * Gives every part what it shows. A part draws only what changed.
   *
   * @param {Session} session
   * @param {Theme} theme
   */
  show(session, theme) {
    const { state, data, listing } = session;
    const { body, main, empty, problem } = this.#boxes;
    body.dataset.theme = theme;
    this.#root.style.background = ink(theme).back;
    const nothing = listing !== null && !listing.runs.length;
    main.hidden = nothing;
    empty.hidden = !nothing;
    if (nothing) empty.replaceChildren(...emptyPage(listing.folders));
    this.#parts.runs.show({ runs: listing?.runs ?? [], slots: state.slots, focus: state.focus, theme });
    problem.hidden = data.problem === null;
    problem.textContent = data.problem;
    if (nothing || data.problem !== null) return this.#showNothing(state.focus);
    this.#showRun(session, theme);
  }

  /** @param {string | null} name of the run that can't be shown */
  #showNothing(name) {
    const { verdict, events, toolbar, charts, layers, threshold } = this.#parts;
    verdict.showName(name ?? "");
    events.show();
    charts.hide();
    layers.element.hidden = threshold.element.hidden = toolbar.element.hidden = true;
  }

  /** @param {Session} session @param {Theme} theme */
  #showRun(session, theme) {
    const { overview, event, listing, state, data } = session;
    if (!overview) return;
    const { verdict, events, threshold } = this.#parts;
    verdict.show({ overview, note: listing?.note, live: this.#live });
    const { optimizers, events_hidden: hidden } = overview;
    events.show({ events: overview.events, hidden, optimizers, chosen: event });
    this.#announce(event);
    this.#showSteps(session, theme, this.#range(...session.range));
    threshold.element.hidden = data.advice === null;
    if (data.advice) threshold.show({ advice: data.advice, trial: state.trial, theme });
  }

  /** @param {Session} session @param {Theme} theme @param {Range} range */
  #showSteps({ state, data, overview, event }, theme, range) {
    const { charts, toolbar, layers } = this.#parts;
    const runs = this.#drawn(state.slots, state.focus, data.series);
    const focused = runs.find((run) => run.focused);
    if (!focused || !overview) return;
    const marks = { range, events: overview.events, chosen: event, theme };
    toolbar.element.hidden = false;
    toolbar.show({ range, series: focused.series });
    charts.show({ runs, trial: state.trial, ...marks });
    const { tile, whole } = data;
    const colour = runColour(focused.slot, theme);
    if (data.layers) layers.show({ state, layers: data.layers, tile, whole, colour, ...marks });
  }

  #range = memo((/** @type {number} */ from, /** @type {number} */ to) => /** @type {Range} */ ([from, to]));
  #drawn = memo(drawnRuns);

  /** Says what was chosen, to those who can't see it. */
  #announce = memo((/** @type {RunEvent | null} */ event) => {
    if (!event) return;
    this.#boxes.said.textContent = `${event.severity} ${event.kind} at step ${event.step}. ${event.message}`;
    this.#boxes.main.scrollTo?.({ top: 0 });
  });

  #resize() {
    this.#parts.charts.resize();
    this.#parts.layers.resize();
  }
}
