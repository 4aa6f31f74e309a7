// Canvases that can be drawn again elsewhere, as vectors in a file; and what is drawn on several.

/** @typedef {(ctx: CanvasRenderingContext2D) => void} Painter draws in CSS pixels */

/** @type {WeakMap<HTMLCanvasElement, Painter>} */
const PAINTERS = new WeakMap();

/**
 * Draws on a canvas at a size in CSS pixels, and keeps how.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 * @param {Painter} paint
 */
export function paintOn(canvas, width, height, paint) {
  const ctx = canvas.getContext("2d");
  if (!ctx) return;
  const unit = devicePixelRatio;
  canvas.width = width * unit;
  canvas.height = height * unit;
  canvas.style.height = `${height}px`;
  ctx.scale(unit, unit);
  paint(ctx);
  keepPainter(canvas, paint);
}

/** @param {HTMLCanvasElement} canvas @param {Painter} paint */
export function keepPainter(canvas, paint) {
  PAINTERS.set(canvas, paint);
}

/** @param {HTMLCanvasElement} canvas @returns {Painter | null} */
export function painterOf(canvas) {
  return PAINTERS.get(canvas) ?? null;
}

/** @param {CanvasRenderingContext2D} ctx @param {number} x @param {number} y @param {number} toX @param {number} toY */
export function segment(ctx, x, y, toX, toY) {
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(toX, toY);
  ctx.stroke();
}
