// The entries of one gradient by magnitude and step, as colours.
/** @import { Magnitudes, Range, Theme } from "../types.d.ts" */
/** @import { Band } from "./values.js" */
import { ink, palette } from "../draw/colours.js";
import { colourScale } from "../draw/scales.js";
import { holds, xOf } from "../heat/frame.js";
import { countsAt, LIMITS, placeOf, scaleAt } from "./values.js";

export const ENDS = /** @type {[low: number, high: number]} */ ([1e-4, 1]); // of the colour scale: shares of the entries
const FONT = "11px system-ui, sans-serif";
const LETTER = 13; // px from one label to the next

/**
 * @param {CanvasRenderingContext2D} ctx
 * @param {object} picture
 * @param {Magnitudes} picture.magnitudes
 * @param {Band[]} picture.bands
 * @param {import("../heat/frame.js").Frame} picture.frame
 * @param {Range} picture.range
 * @param {number} picture.lastStep of the run
 * @param {number | null} picture.pin
 * @param {Theme} picture.theme
 */
export function drawMagnitudes(ctx, { magnitudes, bands, frame, range, lastStep, pin, theme }) {
  const colours = ink(theme);
  const { left, width, height } = frame;
  ctx.fillStyle = colours.absent;
  for (const { top, tall } of bands) ctx.fillRect(left, top, width, tall);
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, 0, width, height);
  ctx.clip();
  for (const part of samplesIn(magnitudes, frame, range, lastStep)) drawSample(ctx, magnitudes, bands, part, theme);
  drawLimits(ctx, magnitudes, bands, samplesIn(magnitudes, frame, range, lastStep), theme);
  const x = pin === null ? -1 : xOf(frame, range, pin);
  ctx.fillStyle = colours.chosen;
  if (holds(frame, x)) ctx.fillRect(x - 0.5, 0, 1, height);
  ctx.restore();
  drawNames(ctx, magnitudes, bands, left, theme);
}

/** @typedef {{ sample: number, x: number, wide: number }} Part a sample holds until the next one */

/**
 * @param {Magnitudes} magnitudes
 * @param {import("../heat/frame.js").Frame} frame
 * @param {Range} range
 * @param {number} lastStep
 * @returns {Part[]}
 */
function samplesIn({ arrays: { step } }, frame, range, lastStep) {
  return [...step.keys()].flatMap((sample) => {
    const next = sample + 1 < step.length ? step[sample + 1] : lastStep + 1;
    const [x, end] = [step[sample], next].map((one) => Math.round(xOf(frame, range, one - 0.5))); // no seams
    return end < frame.left || x > frame.left + frame.width ? [] : [{ sample, x, wide: Math.max(1, end - x) }];
  });
}

/** @param {CanvasRenderingContext2D} ctx @param {Magnitudes} magnitudes @param {Band[]} bands @param {Part} part @param {Theme} theme */
function drawSample(ctx, magnitudes, bands, { sample, x, wide }, theme) {
  const found = countsAt(magnitudes, sample);
  if (!found) {
    ctx.fillStyle = ink(theme).back;
    ctx.fillRect(x, 0, wide, bands[bands.length - 1].top + bands[bands.length - 1].tall);
    return;
  }
  const shades = palette(undefined, theme);
  const scaled = colourScale(...ENDS, true);
  for (const { bin, name, top, tall } of bands) {
    if (!found.counts[bin]) continue;
    const bad = name === "inf" || name === "nan";
    ctx.fillStyle = bad ? ink(theme).bad : cssOf(shades[scaled(found.counts[bin] / found.all)]);
    ctx.fillRect(x, top, wide, tall);
  }
}

/** A pixel as a colour of CSS. @param {number} pixel */
function cssOf(pixel) {
  return `rgb(${pixel & 255},${(pixel >> 8) & 255},${(pixel >> 16) & 255})`;
}

/**
 * A line for each limit, with a rim so that it stands out from every colour; a GradScaler moves those of float16.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {Magnitudes} magnitudes
 * @param {Band[]} bands
 * @param {Part[]} parts
 * @param {Theme} theme
 */
function drawLimits(ctx, magnitudes, bands, parts, theme) {
  const { bins } = magnitudes.about;
  for (const [colour, thick] of /** @type {[string, number][]} */ ([
    [ink(theme).back, 3],
    [ink(theme).text, 1],
  ]))
    for (const { log2, scaled } of LIMITS) {
      ctx.fillStyle = colour;
      for (const { sample, x, wide } of parts) {
        const moved = scaled ? log2 - Math.log2(scaleAt(magnitudes, sample)) : log2;
        ctx.fillRect(x, Math.round(placeOf(bins, bands, moved)) - thick / 2, wide, thick);
      }
    }
}

/** @param {CanvasRenderingContext2D} ctx @param {Magnitudes} magnitudes @param {Band[]} bands @param {number} left @param {Theme} theme */
function drawNames(ctx, magnitudes, bands, left, theme) {
  const { bins } = magnitudes.about;
  const first = scaleAt(magnitudes, 0);
  const special = bands.filter(({ name }) => !name.startsWith("2^") && name !== "below");
  const names = [
    ...special.map(({ name, top, tall }) => ({ text: name === "nan" ? "NaN" : name, y: top + tall / 2 })),
    ...LIMITS.map(({ name, log2, scaled }) => {
      const moved = scaled ? log2 - Math.log2(first) : log2;
      return { text: name, y: placeOf(bins, bands, moved) };
    }),
  ].sort((a, b) => a.y - b.y);
  ctx.font = FONT;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  ctx.fillStyle = ink(theme).faint;
  let free = LETTER / 2;
  for (const { text, y } of names) {
    const at = Math.max(free, y);
    ctx.fillText(text, left - 6, at);
    free = at + LETTER;
  }
}
