// What is drawn as one picture in pixels.
import { drawTexts, itemsIn } from "./items.js";

/**
 * @param {HTMLElement} main
 * @returns {Promise<Blob | null>} PNG
 */
export function pictureOf(main) {
  const unit = devicePixelRatio;
  const items = itemsIn(main);
  const { width, height, fields, canvases } = items;
  const picture = document.createElement("canvas");
  picture.width = width * unit;
  picture.height = height * unit;
  const ctx = /** @type {CanvasRenderingContext2D} */ (picture.getContext("2d"));
  ctx.scale(unit, unit);
  drawTexts(ctx, items);
  for (const { left, top, width, height, colours } of fields) {
    const ramp = ctx.createLinearGradient(left, 0, left + width, 0);
    for (const [i, colour] of colours.entries()) ramp.addColorStop(i / Math.max(1, colours.length - 1), colour);
    ctx.fillStyle = ramp;
    ctx.fillRect(left, top, width, height);
  }
  for (const { canvas, left, top, width, height } of canvases) ctx.drawImage(canvas, left, top, width, height);
  return new Promise((done) => picture.toBlob(done, "image/png"));
}
