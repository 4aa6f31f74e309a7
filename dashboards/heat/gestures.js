// Gestures on the heat map: point, click, drag to pan, Ctrl and wheel to zoom, up and down.

/**
 * @typedef {object} Gestures places are in CSS pixels from the upper left corner
 * @property {(x: number, y: number) => void} moved
 * @property {() => void} left
 * @property {(x: number, y: number) => void} clicked
 * @property {() => void} doubleClicked
 * @property {() => (dx: number) => void} dragging called where a drag begins; the result is told how far it has gone
 * @property {(factor: number, x: number) => void} wheeled
 * @property {(by: number) => void} stepped by the up and down arrow, -1 or 1
 */

const CLICK = 3; // px that a click may move

/**
 * Listens to the pointer.
 *
 * @param {HTMLElement} element
 * @param {Gestures} on
 */
export function listen(element, on) {
  /** @param {MouseEvent} event @returns {[x: number, y: number]} */
  const place = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  /** @type {{ x: number, drag: (dx: number) => void, moved: boolean } | null} */
  let pressed = null;
  element.addEventListener("pointerdown", (event) => {
    pressed = { x: event.clientX, drag: on.dragging(), moved: false };
    element.setPointerCapture(event.pointerId);
  });
  element.addEventListener("pointermove", (event) => {
    if (pressed && Math.abs(event.clientX - pressed.x) > CLICK) pressed.moved = true;
    if (pressed?.moved) pressed.drag(event.clientX - pressed.x);
    else on.moved(...place(event));
  });
  element.addEventListener("pointerup", (event) => {
    const moved = pressed?.moved;
    pressed = null;
    if (!moved) on.clicked(...place(event));
  });
  element.addEventListener("pointercancel", () => {
    pressed = null;
  });
  element.addEventListener("pointerleave", () => on.left());
  element.addEventListener("dblclick", () => on.doubleClicked());
  const wheel = (/** @type {WheelEvent} */ event) => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return; // the page scrolls
    event.preventDefault();
    on.wheeled(Math.exp((event.deltaY || event.deltaX) / 300), place(event)[0]);
  };
  element.addEventListener("wheel", wheel, { passive: false });
  element.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
    event.preventDefault(); // the page would scroll
    on.stepped(event.key === "ArrowUp" ? -1 : 1);
  });
}
