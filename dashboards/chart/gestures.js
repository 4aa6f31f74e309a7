// What the mouse does on a chart: point, click near an event, drag over steps, and with Shift over values.
/** @import { Range, StepActions } from "../types.d.ts" */
/** @import uPlot from "../vendor/uplot/uPlot.esm.js" */

const CLICK = 3; // px that a click may move; a drag moves further
const LEAST = 4; // px that a drag selects at least

/**
 * @param {uPlot} u
 * @param {StepActions} on
 */
export function listen(u, on) {
  let began = 0;
  const { drag } = u.cursor;
  u.over.addEventListener(
    "mousedown",
    (press) => {
      began = press.clientX;
      if (drag) [drag.x, drag.y] = [!press.shiftKey, press.shiftKey];
    },
    true, // before uPlot, which looks at `drag`
  );
  u.over.addEventListener("click", (press) => {
    if (Math.abs(press.clientX - began) <= CLICK && !press.shiftKey)
      on.chooseNear((step) => u.valToPos(step, "x") - press.offsetX);
  });
  u.over.addEventListener("dblclick", () => on.showAll());
  u.over.addEventListener("mousemove", (move) => on.point(u.posToVal(move.offsetX, "x")));
  u.over.addEventListener("mouseleave", () => on.point(null));
}

/**
 * What a drag selected, which is then no longer marked; null if it was too small.
 *
 * @param {uPlot} u
 * @param {boolean} log whether the axis has powers of ten
 * @returns {{ steps: Range } | { values: Range } | null}
 */
export function takeSelection(u, log) {
  const { left, top, width, height } = u.select;
  const upright = u.cursor.drag?.y ?? false;
  const steps = [left, left + width].map((x) => u.posToVal(x, "x"));
  const values = [top + height, top].map((y) => u.posToVal(y, "y")).map((value) => (log ? 10 ** value : value));
  u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  if ((upright ? height : width) < LEAST) return null;
  return upright ? { values: [values[0], values[1]] } : { steps: [steps[0], steps[1]] };
}
