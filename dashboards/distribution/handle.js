// A threshold to move: a slider at the right end of a chart, on its y axis.
/** @import { Axis } from "../chart/axis.js" */
import { h } from "../draw/dom.js";

const FINE = Math.log(1.02); // an arrow key: as fine as the norms are counted
const COARSE = 10 * FINE; // Page Up and Page Down

/**
 * @typedef {object} Given
 * @property {Axis} axis
 * @property {number} threshold
 * @property {(threshold: number) => { short: string, long: string }} tell
 */

export class ThresholdHandle {
  /** @type {(threshold: number, done: boolean) => void} */ #moved;
  /** @type {() => void} */ #dropped;
  /** @type {Given | null} */ #given = null;
  #tag = h("span", { class: "tag" });
  #line = h("span", { class: "line" });

  /**
   * @param {(threshold: number, done: boolean) => void} moved is called while it moves, and when it stays
   * @param {() => void} dropped the reader does without a threshold
   */
  constructor(moved, dropped) {
    this.#moved = moved;
    this.#dropped = dropped;
    const look = { role: "slider", tabIndex: 0, "aria-label": "threshold to try", "aria-orientation": "vertical" };
    const title = "drag, or arrow keys: a threshold to try; Escape ends it";
    this.grip = h("div", { class: "grip", title, ...look }, "◀");
    this.element = h("div", { class: "threshold-handle", hidden: true }, this.#line, this.#tag, this.grip);
    this.grip.addEventListener("pointerdown", (press) => this.drag(press, this.grip));
    this.grip.addEventListener("keydown", (press) => this.#press(press));
  }

  /**
   * Puts it at a threshold, or hides it.
   *
   * @param {Given | null} given
   * @param {boolean} [tried] whether the reader moved it there
   */
  show(given, tried = false) {
    this.#given = given;
    this.element.hidden = given === null;
    if (!given) return;
    const { axis, threshold, tell } = given;
    const { short, long } = tell(threshold);
    const place = Math.max(0, Math.min(axis.height, axis.y(threshold)));
    this.element.style.top = `${axis.top + place}px`;
    this.element.classList.toggle("tried", tried);
    this.element.classList.toggle("low", place < 20);
    this.#tag.textContent = short;
    const number = (/** @type {number} */ value) => String(Number(value.toPrecision(4)));
    this.grip.setAttribute("aria-valuemin", number(axis.value(axis.height)));
    this.grip.setAttribute("aria-valuemax", number(axis.value(0)));
    this.grip.setAttribute("aria-valuenow", number(threshold));
    this.grip.setAttribute("aria-valuetext", long);
  }

  /**
   * Follows the pointer until it is released.
   *
   * @param {PointerEvent} press
   * @param {HTMLElement} target
   */
  drag(press, target) {
    const given = this.#given;
    if (!given || press.button !== 0) return;
    press.preventDefault();
    this.grip.focus({ preventScroll: true });
    target.setPointerCapture(press.pointerId);
    const { axis } = given; // as it was when the drag began: it may change with the threshold
    const parent = /** @type {HTMLElement} */ (this.element.parentElement);
    const at = (/** @type {PointerEvent} */ move) => {
      const y = move.clientY - parent.getBoundingClientRect().top - axis.top;
      return axis.value(Math.max(0, Math.min(axis.height, y)));
    };
    const move = (/** @type {PointerEvent} */ event) => this.#moved(at(event), false);
    const end = (/** @type {PointerEvent} */ event) => {
      target.removeEventListener("pointermove", move);
      target.removeEventListener("pointerup", end);
      target.removeEventListener("pointercancel", end);
      this.#moved(at(event), true);
    };
    target.addEventListener("pointermove", move);
    target.addEventListener("pointerup", end);
    target.addEventListener("pointercancel", end);
  }

  /** @param {KeyboardEvent} press */
  #press(press) {
    if (!this.#given || press.ctrlKey || press.metaKey || press.altKey) return;
    const { axis, threshold } = this.#given;
    const times = (/** @type {number} */ by) => () => this.#moved(threshold * Math.exp(by), true);
    const [up, down] = [times(FINE), times(-FINE)];
    /** @type {Record<string, () => void>} */
    const moves = {
      ArrowUp: up,
      ArrowRight: up,
      ArrowDown: down,
      ArrowLeft: down,
      PageUp: times(COARSE),
      PageDown: times(-COARSE),
      Home: () => this.#moved(axis.value(axis.height), true),
      End: () => this.#moved(axis.value(0), true),
      Escape: () => this.#dropped(),
    };
    if (!moves[press.key]) return;
    press.preventDefault();
    press.stopPropagation(); // the page's own keys move steps
    moves[press.key]();
  }
}
