// Layers by steps: the controls, the heat map, and the chosen row as a line.
/** @import { Layers, Other, Range, RunEvent, State, StepActions, Theme, Tile } from "../types.d.ts" */
/** @import { Sentinels } from "../heat/sentinels.js" */
/** @import { Row } from "../state/rows.js" */
import { Chart } from "../chart/chart.js";
import { h } from "../draw/dom.js";
import { share } from "../draw/text.js";
import { HeatMap } from "../heat/heatmap.js";
import { HeatTable } from "../heat/listing.js";
import { offered, sourceOf, statistic } from "../heat/statistics.js";
import { valuesOf } from "../heat/values.js";
import { DepthProfile } from "../profile/profile.js";
import { memo } from "../state/memo.js";
import { rowNamed, rowSubjects, rowsOf } from "../state/rows.js";
import { LayerControls } from "./controls.js";
import { PartingNote } from "./parting.js";
import { badOf, rowLines } from "./rowline.js";

/** @typedef {import("./controls.js").Look} Look */
/** @typedef {Look & Pick<State, "layer" | "against" | "pin">} Changes */
/** @typedef {StepActions & { look(change: Partial<Changes>): void }} Actions */

/**
 * @typedef {object} Shown
 * @property {State} state
 * @property {Layers} layers
 * @property {Tile | null} tile
 * @property {Tile | null} whole
 * @property {Sentinels | null} sentinels
 * @property {Other | null} other the run compared with
 * @property {string} colour of the run
 * @property {Range} range
 * @property {number} lastStep of the run
 * @property {RunEvent[]} events
 * @property {RunEvent | null} chosen
 * @property {number[]} selected steps of all runs
 * @property {number[]} selectedHere those of this run
 * @property {Theme} theme
 */

const CHOSEN = "chosen layer"; // its chart

export class LayersPart {
  /** @type {LayerControls} */ #controls;
  #accuracy = h("span", { class: "faint" });
  /** @type {PartingNote} */ #parting;
  /** @type {HeatMap} */ #heat;
  /** @type {HeatTable} */ #table;
  /** @type {DepthProfile} */ #profile;
  /** The chosen row as a line; stays in view at the foot of the page. @type {Chart} */ chart;
  /** @type {Row[]} */ #rows = [];

  /** @param {Actions} on */
  constructor(on) {
    this.#controls = new LayerControls({ look: on.look });
    this.#parting = new PartingNote(on);
    const choosing = { ...on, chooseRow: (/** @type {Row} */ row) => on.look({ layer: row.name }) };
    this.#profile = new DepthProfile(choosing);
    this.#heat = new HeatMap(choosing, this.#profile.element);
    this.#table = new HeatTable((pin) => on.look({ pin }));
    this.chart = new Chart({ title: CHOSEN, height: 130 }, on);
    this.chart.element.classList.add("foot");
    const label = "Layers by steps";
    this.element = h(
      "section",
      { class: "layers", "aria-label": label },
      h("h2", {}, "Layers × steps ", this.#accuracy),
      this.#controls.element,
      this.#parting.element,
      this.#heat.element,
      this.#table.element,
    );
  }

  /** @param {Shown} shown */
  show(shown) {
    const { state, layers, tile, whole, other, colour, range, lastStep, events, chosen, selected, theme } = shown;
    const stat = offered(state.stat, layers);
    if (stat === null || (!tile && this.element.hidden)) {
      this.element.hidden = this.chart.element.hidden = true;
      return;
    }
    this.element.hidden = false;
    this.element.classList.toggle("waiting", !tile);
    this.#accuracy.textContent = layers.quantile_error
      ? `a long run: medians of layers within ${share(layers.quantile_error)} of exact`
      : "";
    const look = statistic(stat);
    const subjects = this.#subjects(look.ranks ?? false, layers);
    this.#rows = this.#controls.valid(state.filter)
      ? this.#arranged(subjects, state.filter, state.depth, state.order)
      : this.#rows;
    const row = rowNamed(this.#rows, subjects.layers, state.layer);
    this.#controls.show({ layers, stat, look: state, rows: this.#rows, row });
    const parting = this.#parting.show(state, look, other);
    if (!tile || !whole || tile.about.stat !== sourceOf(stat)) return; // what is shown stays until the tile arrives
    const values = this.#values(tile, stat, subjects.layers);
    const { pin } = state;
    const shared = { stat, tile, whole, values, rows: this.#rows, chosenRow: row, range, lastStep, pin, theme };
    const picture = { ...shared, events, chosen, parting, selected: shown.selectedHere };
    this.#heat.show(picture);
    this.#table.show(picture, state.tables);
    const usual = this.#wholeValues(whole, stat, subjects.layers);
    const inDepth = state.order === "model" && !look.ranks;
    const { frame } = this.#heat;
    this.#profile.show({ ...shared, wholeValues: usual, inDepth, frame, ghost: chosen?.step ?? null });
    const lines = this.#lines(row, tile, stat, subjects.layers, colour, theme, shown.sentinels, layers);
    const title = row?.name ?? CHOSEN;
    const cut = { log: !look.share, robust: !state.wholeAxis, values: state.values[CHOSEN] ?? null };
    const marks = { bad: this.#bad(lines), events, chosen, selected };
    this.chart.show({ title, lines, ...cut, range, ...marks, tables: state.tables, theme });
  }

  #subjects = memo(rowSubjects);
  #arranged = memo(
    (
      /** @type {ReturnType<typeof rowSubjects>} */ { layers, telling },
      /** @type {string} */ filter,
      /** @type {number} */ depth,
      /** @type {string} */ order,
    ) => rowsOf(layers, telling, { filter, depth, order }),
  );
  #values = memo(valuesOf);
  #wholeValues = memo(valuesOf);
  #lines = memo(rowLines);
  #bad = memo(badOf);

  resize() {
    this.#heat.draw();
    this.#profile.draw();
    this.chart.resize();
  }

  /** @param {number | null} step */
  pointAt(step) {
    this.#heat.pointAt(step);
    this.#profile.pointAt(step);
    this.chart.pointAt(step);
  }
}
