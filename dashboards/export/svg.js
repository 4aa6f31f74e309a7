// What is drawn as one picture in vectors; the colours of the layers are an image in it.
/** @import { Items } from "./items.js" */
/** @import { Measure } from "./pen.js" */
import { painterOf } from "../draw/canvas.js";
import { drawTexts, itemsIn } from "./items.js";
import { VectorPen } from "./pen.js";
import { attributes } from "./xml.js";

/** @param {HTMLElement} main @returns {string} SVG */
export function vectorOf(main) {
  const measure = measurer();
  const items = itemsIn(main);
  const drawn = items.canvases.map((one, i) => canvasPart(one, `clip${i}`, measure));
  return svgOf(items, drawn, measure);
}

/**
 * @param {Items} items
 * @param {string[]} drawn the canvases as elements
 * @param {Measure} measure
 */
export function svgOf(items, drawn, measure) {
  const { width, height, fields } = items;
  const pen = new VectorPen(measure, "text");
  drawTexts(pen, items);
  const size = attributes({ width, height, viewBox: `0 0 ${width} ${height}` });
  const parts = [pen.content, ...fields.map(fieldPart), ...drawn].join("\n");
  return `<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg"${size}>\n${parts}\n</svg>\n`;
}

/** @param {Items["fields"][number]} field @param {number} at */
function fieldPart({ colours, left, top, width, height }, at) {
  const box = { x: left, y: top, width, height };
  if (colours.length === 1) return `<rect${attributes({ ...box, fill: colours[0] })}/>`;
  const stops = colours.map(
    (colour, i) => `<stop${attributes({ offset: i / (colours.length - 1), "stop-color": colour })}/>`,
  );
  const ramp = `<linearGradient id="ramp${at}">${stops.join("")}</linearGradient>`;
  return `${ramp}<rect${attributes({ ...box, fill: `url(#ramp${at})` })}/>`;
}

/** @param {Items["canvases"][number]} place @param {string} prefix @param {Measure} measure */
function canvasPart({ canvas, left, top, width, height }, prefix, measure) {
  const pen = new VectorPen(measure, prefix);
  const paint = painterOf(canvas);
  if (paint) paint(/** @type {CanvasRenderingContext2D} */ (/** @type {unknown} */ (pen)));
  else pen.drawImage(canvas, 0, 0, width, height);
  return `<g transform="translate(${left} ${top})">\n${pen.content}\n</g>`;
}

/** Measures texts as a canvas does. @returns {Measure} */
function measurer() {
  const ctx = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(1, 1).getContext("2d"));
  return (text, font, baseline) => {
    ctx.font = font;
    ctx.textBaseline = "alphabetic";
    const { width, actualBoundingBoxAscent: above } = ctx.measureText(text);
    ctx.textBaseline = /** @type {CanvasTextBaseline} */ (baseline);
    return { width, drop: above - ctx.measureText(text).actualBoundingBoxAscent };
  };
}
