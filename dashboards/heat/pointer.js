// What the pointer and the keys do on the heat map.
/** @import { StepActions } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Frame } from "./frame.js" */
/** @import { Shown } from "./heatmap.js" */
import { rowsAt, stepAt, xOf } from "./frame.js";
import { listen } from "./gestures.js";
import { rowClicked, told } from "./readout.js";

/**
 * Tells what lies under the pointer, and turns gestures and keys into actions.
 *
 * @param {HTMLElement} canvas
 * @param {object} heat
 * @param {() => Shown | null} heat.shown
 * @param {() => Frame} heat.frame
 * @param {(text: string) => void} heat.tell
 * @param {StepActions & { chooseRow(row: Row): void }} heat.on
 */
export function followPointer(canvas, { shown: current, frame, tell, on }) {
  /** @param {Shown} shown @param {number} y */
  const rowsHere = (shown, y) => shown.rows.slice(...rowsAt(frame(), y));
  /** @param {Shown} shown @param {number} x */
  const step = (shown, x) => stepAt(frame(), shown.range, x);
  const leave = () => {
    tell("");
    on.point(null);
  };
  listen(canvas, {
    left: leave,
    doubleClicked: () => on.showAll(),
    moved: (x, y) => {
      const shown = current();
      const { left, height } = frame();
      if (!shown?.rows.length || x < left || y > height) return leave();
      on.point(step(shown, x));
      tell(told(shown, rowsHere(shown, y), step(shown, x)));
    },
    clicked: (x, y) => {
      const shown = current();
      if (!shown?.rows.length) return;
      if (y > frame().height) on.chooseNear((step) => xOf(frame(), shown.range, step) - x);
      else on.chooseRow(rowClicked(shown, rowsHere(shown, y), step(shown, x), shown.chosenRow));
    },
    dragging: () => {
      const [from, to] = current()?.range ?? [0, 1];
      const perPixel = (to - from) / frame().width;
      return (dx) => on.zoomTo(from - dx * perPixel, to - dx * perPixel);
    },
    wheeled: (factor, x) => {
      const shown = current();
      if (shown) on.zoomBy(factor, step(shown, x));
    },
    stepped: (by) => {
      const shown = current();
      if (!shown?.rows.length) return;
      const at = shown.chosenRow ? shown.rows.indexOf(shown.chosenRow) + by : 0;
      on.chooseRow(shown.rows[Math.max(0, Math.min(shown.rows.length - 1, at))]);
    },
  });
}
