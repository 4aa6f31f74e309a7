// The distribution of norms as bars on the y axis of the chart beside it.
/** @import { Theme } from "../types.d.ts" */
/** @import { Axis } from "../chart/axis.js" */
/** @import { Norms } from "./values.js" */
import { FONT } from "../chart/options.js";
import { ink } from "../draw/colours.js";
import { count, number, share, whole } from "../draw/text.js";
import { barsOf, effectOf } from "./values.js";

const LEAST = 4; // px: a bar
const SHORTEST = 2; // px: the bar of a single step among thousands stays visible
const MARGIN = 6; // px

/**
 * @param {CanvasRenderingContext2D} ctx
 * @param {object} picture
 * @param {Norms} picture.norms
 * @param {Axis} picture.axis
 * @param {number} picture.threshold
 * @param {number} picture.width
 * @param {string} picture.colour of the run
 * @param {Theme} picture.theme
 */
export function drawDistribution(ctx, { norms, axis, threshold, width, colour, theme }) {
  const colours = ink(theme);
  const { bars, below, above } = barsOf(norms, axis, LEAST);
  const most = Math.max(1, ...bars.map((bar) => bar.count));
  const { top } = axis;
  for (const bar of bars) {
    const length = Math.max(SHORTEST, (bar.count / most) * (width - 2 * MARGIN));
    ctx.fillStyle = (bar.low + bar.high) / 2 > threshold ? colours.warning : colour;
    ctx.fillRect(MARGIN, top + bar.top, length, Math.max(1, bar.tall - 1));
  }
  const y = top + Math.max(0, Math.min(axis.height, axis.y(threshold)));
  ctx.strokeStyle = colours.chosen;
  ctx.setLineDash([2, 3]);
  ctx.beginPath();
  ctx.moveTo(0, y);
  ctx.lineTo(width, y);
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.font = FONT;
  ctx.textAlign = "right";
  ctx.fillStyle = colours.faint;
  if (above) ctx.fillText(`▲ ${whole(above)} above`, width - MARGIN, top + 11);
  if (below) ctx.fillText(`▼ ${whole(below)} below`, width - MARGIN, top + axis.height - 4);
  ctx.textAlign = "left";
  // Below the bars, which a label beside the threshold would cover.
  const told = `${number(threshold)} clips ${share(effectOf(norms, threshold).clipped)} of ${count(norms.finite + norms.unknown, "step")}`;
  ctx.fillStyle = colours.text;
  ctx.fillText(told, MARGIN, top + axis.height + 16, width - 2 * MARGIN);
}
