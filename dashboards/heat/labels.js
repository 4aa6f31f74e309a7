// What is written around the layers: names, the row that is chosen, and the marks of events.
/** @import { Range, RunEvent, Theme } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
/** @import { Frame } from "./frame.js" */
import { shape, stretches } from "../chart/marks.js";
import { faded, ink } from "../draw/colours.js";
import { fit } from "../draw/text.js";
import { marked } from "../state/events.js";
import { rowsOfLine } from "./columns.js";
import { holds, topOf, xOf } from "./frame.js";

const FONT = "11px system-ui, sans-serif";
const LETTER = 13; // px from one name to the next
const GAP = 3; // px between marks

/**
 * Writes the names of as many rows as there is room for, and frames the chosen one.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {Frame} frame
 * @param {Row[]} rows
 * @param {Row | null} chosen
 * @param {Theme} theme
 */
export function drawNames(ctx, frame, rows, chosen, theme) {
  const colours = ink(theme);
  ctx.textBaseline = "middle";
  ctx.textAlign = "right";
  const at = chosen ? topOf(frame, rows.indexOf(chosen)) : null;
  const between = Math.max(1, Math.ceil(LETTER / frame.tall));
  ctx.fillStyle = colours.faint;
  ctx.font = FONT;
  const begin = Math.floor(LETTER / 2 / frame.tall); // the first name must not be cut at the top
  for (let line = begin; line < frame.lines && rows.length; line += between) {
    const y = line * frame.tall;
    const hidden = at !== null && Math.abs(y - at) < LETTER - 1 && y !== at;
    if (!hidden && y !== at) write(ctx, frame, rows[rowsOfLine(line, rows.length, frame.lines)[0]].name, y);
  }
  if (!chosen || at === null) return;
  ctx.strokeStyle = ctx.fillStyle = colours.chosen;
  ctx.strokeRect(frame.left - 0.5, at - 0.5, frame.width + 1, frame.tall + 1);
  ctx.font = `bold ${FONT}`;
  write(ctx, frame, chosen.name, at);
}

/** @param {CanvasRenderingContext2D} ctx @param {Frame} frame @param {string} name @param {number} y */
function write(ctx, frame, name, y) {
  ctx.fillText(fit(name, 34), frame.left - 6, Math.max(6, y + frame.tall / 2), frame.left - 10);
}

/**
 * Draws the marks of events below the layers, and a line through them at the chosen event.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {Frame} frame
 * @param {Range} range
 * @param {RunEvent[]} events
 * @param {RunEvent | null} chosen
 * @param {Theme} theme
 */
export function drawEventMarks(ctx, frame, range, events, chosen, theme) {
  const colours = ink(theme);
  const x = (/** @type {number} */ step) => xOf(frame, range, step);
  const visible = events.filter((event) => holds(frame, x(event.step)));
  for (const event of marked(visible, x, GAP, chosen)) {
    ctx.fillStyle = colours[event.severity];
    shape(ctx, x(event.step), frame.height + 6, event.severity, 4);
  }
  if (!chosen || !visible.includes(chosen)) return;
  ctx.strokeStyle = faded(colours.chosen, 0.8);
  ctx.setLineDash([2, 3]);
  ctx.beginPath();
  ctx.moveTo(x(chosen.step), 0);
  ctx.lineTo(x(chosen.step), frame.height);
  ctx.stroke();
  ctx.setLineDash([]);
}

/**
 * Draws a bar below and above the steps that are selected in the scatter plot.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {Frame} frame
 * @param {Range} range
 * @param {number[]} steps ascending
 * @param {Theme} theme
 */
export function drawSelected(ctx, frame, range, steps, theme) {
  ctx.fillStyle = ink(theme).chosen;
  const x = (/** @type {number} */ step) =>
    Math.max(frame.left, Math.min(frame.left + frame.width, xOf(frame, range, step)));
  const visible = steps.filter((step) => holds(frame, xOf(frame, range, step)));
  for (const [begin, end] of stretches(visible, x, 1)) {
    ctx.fillRect(begin, frame.height, end - begin, 3);
    ctx.fillRect(begin, 0, end - begin, 2);
  }
}

/**
 * Draws a line at the pinned step.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {Frame} frame
 * @param {Range} range
 * @param {number | null} pin
 * @param {Theme} theme
 */
export function drawPin(ctx, frame, range, pin, theme) {
  const x = pin === null ? -1 : xOf(frame, range, pin);
  if (!holds(frame, x)) return;
  ctx.fillStyle = ink(theme).chosen;
  ctx.fillRect(x - 0.5, 0, 1, frame.height + 4);
}

/**
 * Draws a line at the step at which two runs part, and says so below.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {Frame} frame
 * @param {Range} range
 * @param {number | null} step
 * @param {Theme} theme
 */
export function drawParting(ctx, frame, range, step, theme) {
  const x = step === null ? -1 : xOf(frame, range, step - 0.5);
  if (!holds(frame, x)) return;
  const { chosen } = ink(theme);
  ctx.strokeStyle = ctx.fillStyle = chosen;
  ctx.lineWidth = 1.5;
  ctx.setLineDash([6, 3]);
  ctx.beginPath();
  ctx.moveTo(x, 0);
  ctx.lineTo(x, frame.height + 3);
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.lineWidth = 1;
  ctx.font = "10px system-ui, sans-serif";
  ctx.textBaseline = "top";
  const right = x < frame.left + frame.width / 2;
  ctx.textAlign = right ? "left" : "right";
  ctx.fillText("they part here", x + (right ? 7 : -7), frame.height + 1);
}
