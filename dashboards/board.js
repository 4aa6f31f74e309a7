// The parts of the page, where they stand, and what each of them shows.
/** @import { Overview, Range, StepActions, Theme } from "./types.d.ts" */
/** @import { Session } from "./session.js" */
import { columnsIn } from "./chart/layout.js";
import { ink, runColour } from "./draw/colours.js";
import { FindingsPart } from "./findings/part.js";
import { InspectorPart } from "./inspector/part.js";
import { MagnitudesPart } from "./magnitudes/part.js";
import { Charts } from "./parts/charts.js";
import { drawnRuns, sampledRuns } from "./parts/drawn.js";
import { emptyPage } from "./parts/empty.js";
import { EventList } from "./parts/events.js";
import { EventLane } from "./parts/lane.js";
import { LayersPart } from "./parts/layers.js";
import { layOut } from "./parts/layout.js";
import { RunList } from "./parts/runs.js";
import { ThresholdPart } from "./parts/threshold.js";
import { handleKey, Toolbar } from "./parts/toolbar.js";
import { VerdictPart } from "./parts/verdict.js";
import { ScatterPart } from "./scatter/part.js";
import { memo } from "./state/memo.js";
import { StoryPart } from "./story/part.js";

/** @typedef {{ link(): string, pin(): void, save(kind: string): void }} PageActions */
/** @typedef {import("./actions.js").Actions & Pick<StepActions, "point"> & PageActions} Actions */

/** @type {import("./types.d.ts").ListedRun[]} */
const NONE = [];

export class Board {
  /** @type {HTMLElement} */ #root;
  #parts;
  #boxes;
  /** @type {number | null} */ pointer = null;

  /**
   * @param {HTMLElement} root to fill
   * @param {boolean} several whether there can be several runs
   * @param {Actions} on
   */
  constructor(root, several, on) {
    this.#root = root;
    this.#parts = {
      runs: new RunList(on),
      events: new EventList(on),
      verdict: new VerdictPart(on),
      findings: new FindingsPart(on),
      toolbar: new Toolbar(on),
      story: new StoryPart(on),
      lane: new EventLane(on),
      scatter: new ScatterPart(on),
      charts: new Charts(on),
      layers: new LayersPart(on),
      magnitudes: new MagnitudesPart(on),
      inspector: new InspectorPart(on),
      threshold: new ThresholdPart(on),
    };
    this.#boxes = layOut(this.#parts, several);
    root.ownerDocument.addEventListener("keydown", (event) => handleKey(event, on));
    this.#hideRun();
    root.append(this.#boxes.body);
    new ResizeObserver(() => this.#resize()).observe(this.#boxes.main);
  }

  /** How many columns of steps fit. */
  get columns() {
    return columnsIn(this.#boxes.ruler.clientWidth);
  }

  /** @param {boolean} printing whether to take the width of paper */
  setPrinting(printing) {
    this.#boxes.body.classList.toggle("printing", printing);
    this.#resize();
  }

  /** @param {number | null} step where the pointer is */
  pointAt(step) {
    this.pointer = step;
    const { charts, layers, magnitudes, inspector } = this.#parts;
    for (const part of [charts, layers, magnitudes, inspector]) part.pointAt(step);
  }

  /** Gives every part what it shows; a part draws only what changed. @param {Session} session @param {Theme} theme */
  show(session, theme) {
    const { state, data, listing } = session;
    const { body, main, empty, problem } = this.#boxes;
    body.dataset.theme = theme;
    this.#root.style.background = ink(theme).back;
    const nothing = listing !== null && !listing.runs.length;
    [main.hidden, empty.hidden] = [nothing, !nothing];
    if (nothing) empty.replaceChildren(...emptyPage(listing.folders));
    this.#parts.runs.show({ ...state, runs: listing?.runs ?? NONE, theme });
    problem.hidden = data.problem === null;
    problem.textContent = data.problem;
    main.classList.toggle("waiting", !data.problem && (!session.overview || !data.series[state.focus ?? ""]));
    if (nothing || data.problem !== null) return this.#hideRun(state.focus ?? "");
    this.#showRun(session, theme);
  }

  /** @param {string} [name] of a run to show alone; all else is hidden, so that nothing moves when it arrives */
  #hideRun(name = "") {
    const { runs: _, events, verdict, charts, layers, ...others } = this.#parts;
    verdict.showName(name);
    events.show();
    for (const part of [...Object.values(others), ...charts.all, layers, layers.chart]) part.element.hidden = true;
  }

  /** @param {Session} session @param {Theme} theme */
  #showRun(session, theme) {
    const { overview, event, listing, state, data } = session;
    if (!overview) return;
    const { verdict, findings, events, story, threshold } = this.#parts;
    verdict.show({ overview, note: listing?.note });
    findings.show(overview);
    const { optimizers, events_hidden: hidden } = overview;
    events.show({ events: overview.events, hidden, optimizers, chosen: event });
    story.show({ event, story: data.story, layers: data.layers, theme });
    this.#showSteps(session, theme, this.#range(...session.range));
    threshold.element.hidden = data.advice === null;
    if (data.advice) threshold.show({ advice: data.advice, trial: state.trial, theme });
  }

  /** @param {Session} session @param {Theme} theme @param {Range} range */
  #showSteps({ state, data, overview, event }, theme, range) {
    const { charts, toolbar, scatter, layers } = this.#parts;
    const runs = this.#drawn(state.slots, state.focus, data.series, data.overviews);
    const focused = runs.find((run) => run.focused);
    if (!focused || !overview) return;
    this.#parts.lane.show({ events: overview.events, chosen: event, range, theme });
    toolbar.element.hidden = false;
    toolbar.show({ ...state, range, series: focused.series });
    scatter.show({ state, runs: this.#sampled(runs, data.scatter), range, theme });
    const marks = { range, events: this.#ownEvents(overview), chosen: event, theme, selected: scatter.selected.all };
    charts.show({ ...state, ...data, runs, ...marks });
    const own = { ...data, state, colour: runColour(focused.slot, theme), lastStep: overview.last_step, ...marks };
    if (data.layers) layers.show({ ...own, layers: data.layers, selectedHere: scatter.selected.focused });
    this.#parts.magnitudes.show(own);
    this.#parts.inspector.show(own);
  }

  #range = memo((/** @type {number} */ from, /** @type {number} */ to) => /** @type {Range} */ ([from, to]));
  #drawn = memo(drawnRuns);
  #sampled = memo(sampledRuns);

  /** Those of the optimizer shown: another one's have no place on its charts. */
  #ownEvents = memo((/** @type {Overview} */ { events, optimizer }) =>
    events.filter((event) => event.optimizer === optimizer),
  );

  #resize() {
    const { lane, scatter, charts, layers, magnitudes, inspector } = this.#parts;
    for (const part of [lane, scatter, charts, layers, magnitudes, inspector]) part.resize();
  }
}
