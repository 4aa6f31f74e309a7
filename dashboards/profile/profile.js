// Beside the heat map: the value of each layer at one step, against what is usual for it.
/** @import { Range, StepActions, Theme, Tile } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Frame } from "../heat/frame.js" */
/** @import { Values } from "../heat/values.js" */
import { paintOn } from "../draw/canvas.js";
import { h } from "../draw/dom.js";
import { number, share, span, whole as wholeText } from "../draw/text.js";
import { FOOT, rowsAt } from "../heat/frame.js";
import { valueText } from "../heat/legend.js";
import { columnOf, rowInView } from "../heat/readout.js";
import { statistic } from "../heat/statistics.js";
import { memo } from "../state/memo.js";
import { drawEnds, drawProfile, placeOf } from "./draw.js";
import { Player } from "./player.js";
import { axisOf, bandsOf, profileAt, slopeOf, slopeText } from "./values.js";

/**
 * @typedef {object} Shown
 * @property {string} stat
 * @property {Tile} tile the steps shown
 * @property {Values} values of `tile`
 * @property {Tile} whole all steps: they decide what is usual
 * @property {Values} wholeValues of `whole`
 * @property {Row[]} rows
 * @property {Row | null} chosenRow
 * @property {boolean} inDepth whether the rows go from the input to the output
 * @property {Frame} frame
 * @property {Range} range
 * @property {number} lastStep of the run
 * @property {number | null} pin the step to show while the pointer is elsewhere
 * @property {number | null} ghost the step to compare with; the column before by default
 * @property {Theme} theme
 */

export class DepthProfile {
  /** @type {(row: Row) => void} */ #choose;
  /** @type {Shown | null} */ #shown = null;
  /** @type {number | null} */ #pointer = null;
  /** @type {Player} */ #player;
  #canvas = h("canvas", { role: "img", class: "profile" });
  #caption = h("p", { class: "readout" });

  /** @param {StepActions & { chooseRow(row: Row): void }} on */
  constructor(on) {
    this.#choose = on.chooseRow;
    this.#player = new Player(on.point, () => this.#shown?.range ?? null);
    this.element = h("div", { class: "side" }, this.#canvas, this.#player.button, this.#caption);
    this.#canvas.addEventListener("mousemove", ({ offsetY }) => this.#tell(offsetY));
    this.#canvas.addEventListener("mouseleave", () => this.draw());
    this.#canvas.addEventListener("click", ({ offsetY }) => {
      const row = this.#rowAt(offsetY);
      if (row) this.#choose(row);
    });
  }

  /** @param {Shown} shown */
  show(shown) {
    this.#shown = shown;
    this.draw();
  }

  /** @param {number | null} step where the pointer is */
  pointAt(step) {
    this.#pointer = step;
    this.draw();
  }

  #bands = memo(bandsOf);

  /** Draws again, at the present width; draws nothing if there is no room beside the heat map. */
  draw() {
    const shown = this.#shown;
    const width = this.element.clientWidth;
    if (!shown || !width) return;
    const { frame, rows, values, theme, stat } = shown;
    const column = columnOf(shown, this.#step(shown));
    const ghost = shown.ghost === null ? column - 1 : columnOf(shown, shown.ghost);
    const now = profileAt(rows, values, column);
    const look = statistic(stat);
    const bands = this.#bands(rows, shown.wholeValues, shown.whole);
    const ends = axisOf(bands, look);
    const [low, high] = ends.map((end) => (look.share ? share(end) : number(end)));
    paintOn(this.#canvas, width, frame.height + FOOT, (ctx) => {
      drawProfile(ctx, {
        bands,
        now,
        ghost: ghost >= 0 && ghost !== column ? profileAt(rows, values, ghost) : null,
        chosen: shown.chosenRow ? rows.indexOf(shown.chosenRow) : null,
        place: placeOf(ends, look.log ?? false, width),
        ends,
        frame,
        width,
        theme,
      });
      drawEnds(ctx, [low, high], frame.height + 2, width, theme);
    });
    this.#describe(shown, now, column);
  }

  /** The step to show: that of the pointer, the pinned one, or the last one in view. @param {Shown} shown */
  #step({ pin, range, lastStep }) {
    return this.#pointer ?? pin ?? Math.min(lastStep, range[1] - 0.5);
  }

  /** @param {Shown} shown @param {number[]} now @param {number} column */
  #describe({ tile, stat, inDepth, pin }, now, column) {
    const { first, last } = tile.arrays;
    const joined = column >= 0 && first[column] !== last[column] ? ` to ${wholeText(last[column])}` : "";
    const pinned = this.#pointer === null && pin !== null ? ", pinned" : "";
    const when = column < 0 ? "no step here" : `step ${wholeText(first[column])}${joined}${pinned}`;
    const ofNorm = inDepth && sloped(stat);
    const slope = ofNorm ? slopeText(slopeOf(now), number) : "";
    this.#caption.textContent = [when, slope].filter(Boolean).join(": ");
    const label = `${statistic(stat).label} by layer at ${this.#caption.textContent}`;
    this.#canvas.setAttribute("aria-label", label);
  }

  /** The row whose dot is at a height. @param {number} y @returns {Row | null} */
  #rowAt(y) {
    const shown = this.#shown;
    if (!shown?.rows.length) return null;
    return rowInView(shown, shown.rows.slice(...rowsAt(shown.frame, y)), this.#step(shown));
  }

  /** Tells the row under the pointer. @param {number} y */
  #tell(y) {
    const shown = this.#shown;
    const row = this.#rowAt(y);
    if (!shown || !row) return;
    const [now] = profileAt([row], shown.values, columnOf(shown, this.#step(shown)));
    const band = this.#bands(shown.rows, shown.wholeValues, shown.whole)[shown.rows.indexOf(row)];
    const usual = Number.isNaN(band.high) ? "" : `, usually ${span(band.low, band.high)}`;
    this.#caption.textContent = `${row.name}: ${valueText(now, statistic(shown.stat))}${usual}`;
  }
}

/** Whether a slope over depth means something. @param {string} stat */
function sloped(stat) {
  return stat === "norm" || stat === "abs_max";
}
