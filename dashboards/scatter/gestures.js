// What the pointer and the keys do on the scatter plot: point, select a rectangle, move from point to point.
/** @import { Brush } from "../types.d.ts" */
/** @import { Cloud } from "./values.js" */
import { brushAround, nearestPoint, nextPoint, ordered } from "./moves.js";
import { boxOf, placeOf } from "./picture.js";
import { valueAt } from "./values.js";

const REACH = 14; // px from a point
const LEAST = 4; // px that a drag selects at least

/**
 * @typedef {object} Plot
 * @property {() => Cloud | null} cloud
 * @property {(found: { point: number, at: [number, number] } | null) => void} point shows a point
 * @property {(point: number) => void} pin
 * @property {(brush: Brush | null) => void} select
 * @property {() => boolean} isSelected
 * @property {HTMLElement} rubber drawn around what a drag selects
 */

/** @param {HTMLCanvasElement} canvas @param {Plot} plot */
export function followPlot(canvas, plot) {
  /** @type {Cloud | null} */ let known = null;
  /** @type {number | null} */ let current = null;
  /** @type {number | null} */ let anchor = null;
  const box = () => boxOf(canvas.clientWidth);
  /** @param {Cloud} cloud */
  const renew = (cloud) => {
    if (known !== cloud) [known, current, anchor] = [cloud, null, null];
  };
  /** @param {number | null} point */
  const show = (point) => {
    const cloud = plot.cloud();
    if (cloud) renew(cloud);
    current = point;
    plot.point(point === null || !cloud ? null : { point, at: placeOf(cloud, box(), point) });
  };
  listenToPointer(canvas, plot, show);
  canvas.addEventListener("blur", () => show(null));
  canvas.addEventListener("keydown", (press) => {
    const cloud = plot.cloud();
    if (!cloud || press.ctrlKey || press.metaKey || press.altKey) return;
    renew(cloud);
    if (press.key === "Enter" && current !== null) plot.pin(current);
    else if (press.key === "Escape" && plot.isSelected()) plot.select(null);
    else if (!moved(cloud, press)) return;
    press.preventDefault();
    press.stopPropagation(); // the page's own keys move steps
  });

  /** @param {Cloud} cloud @param {KeyboardEvent} press @returns {boolean} whether the key is one that moves */
  function moved(cloud, press) {
    const next = target(cloud, press.key, current);
    if (next === undefined) return false;
    if (next === null) return true;
    if (press.shiftKey) {
      anchor ??= current ?? next;
      plot.select(brushAround(cloud, anchor, next));
    } else anchor = null;
    show(next);
    return true;
  }
}

/**
 * The point that a key leads to; undefined for any other key.
 *
 * @param {Cloud} cloud
 * @param {string} key
 * @param {number | null} current
 * @returns {number | null | undefined}
 */
function target(cloud, key, current) {
  /** @type {Record<string, ["x" | "y", number, boolean]>} */
  const moves = {
    ArrowRight: ["x", 1, false],
    ArrowLeft: ["x", -1, false],
    ArrowUp: ["y", 1, false],
    ArrowDown: ["y", -1, false],
    Home: ["x", 1, true],
    End: ["x", -1, true],
  };
  if (!moves[key]) return undefined;
  const [axis, by, begin] = moves[key];
  return nextPoint(ordered(cloud, axis), begin ? null : current, by);
}

/** @param {HTMLCanvasElement} canvas @param {Plot} plot @param {(point: number | null) => void} show */
function listenToPointer(canvas, { cloud: current, select, rubber }, show) {
  const box = () => boxOf(canvas.clientWidth);
  /** @type {[x: number, y: number] | null} */ let began = null;
  /** @param {PointerEvent} event @returns {[x: number, y: number]} within the box */
  const placed = ({ clientX, clientY }) => {
    const { left, top } = canvas.getBoundingClientRect();
    const area = box();
    const x = Math.max(area.left, Math.min(area.left + area.width, clientX - left));
    return [x, Math.max(area.top, Math.min(area.top + area.height, clientY - top))];
  };
  canvas.addEventListener("pointerdown", (press) => {
    began = placed(press);
    canvas.setPointerCapture(press.pointerId);
  });
  canvas.addEventListener("pointermove", (move) => {
    const cloud = current();
    if (!cloud) return;
    const at = placed(move);
    if (!began) return show(nearestPoint(cloud, (i) => Math.hypot(...apart(placeOf(cloud, box(), i), at)), REACH));
    const [width, height] = apart(began, at).map(Math.abs);
    rubber.hidden = false;
    const sides = [Math.min(began[0], at[0]), Math.min(began[1], at[1]), width, height];
    for (const [i, side] of ["left", "top", "width", "height"].entries())
      rubber.style.setProperty(side, `${sides[i]}px`);
  });
  canvas.addEventListener("pointerup", (release) => {
    const [from, to] = [began, placed(release)];
    began = null;
    rubber.hidden = true;
    const cloud = current();
    if (!from || !cloud) return;
    select(apart(from, to).every((side) => Math.abs(side) < LEAST) ? null : brushOf(cloud, box(), from, to));
  });
  canvas.addEventListener("pointercancel", () => {
    began = null;
    rubber.hidden = true;
  });
  canvas.addEventListener("pointerleave", () => {
    if (!began && document.activeElement !== canvas) show(null);
  });
}

/** @param {[number, number]} one @param {[number, number]} other @returns {[number, number]} */
function apart([x, y], [atX, atY]) {
  return [atX - x, atY - y];
}

/**
 * @param {Cloud} cloud
 * @param {import("./picture.js").Box} box
 * @param {[number, number]} from
 * @param {[number, number]} to
 * @returns {Brush}
 */
function brushOf({ across, up }, { left, top, width, height }, from, to) {
  const [x, right] = [from[0], to[0]].sort((a, b) => a - b).map((px) => valueAt(across, (px - left) / width));
  const [high, low] = [from[1], to[1]].sort((a, b) => a - b).map((px) => valueAt(up, 1 - (px - top) / height));
  return [x, right, low, high];
}
