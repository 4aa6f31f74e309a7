// The charts of a run over steps, from the first to the last: what each is called, and what it draws.
/** @import { Line } from "../types.d.ts" */
/** @import { Given } from "./lines.js" */
import { coefLines, lossLines, normLines, recordedLines, shareLines, spansDecades, updateLines } from "./lines.js";

/**
 * @typedef {object} Described
 * @property {string} title
 * @property {string} [hint]
 * @property {number} height
 * @property {boolean} [share]
 * @property {boolean} [robust]
 * @property {"nonfinite" | "loss.bad"} [bad]
 * @property {(given: Given) => Line[]} lines
 * @property {(lines: Line[]) => boolean} log
 */

/** @type {Described[]} */
export const CHARTS = [
  {
    title: "total norm",
    hint: "before clipping, and what clipping left",
    height: 200,
    robust: true,
    lines: normLines,
    log: () => true,
  },
  { title: "loss", height: 120, robust: true, bad: "loss.bad", lines: lossLines, log: spansDecades },
  { title: "learning rate", height: 84, lines: recordedLines("learning_rate"), log: () => false },
  {
    title: "clipped_fraction",
    hint: "share of the steps clipped, over a hundredth of the steps shown",
    height: 84,
    share: true,
    lines: shareLines,
    log: () => false,
  },
  {
    title: "clip_coef",
    hint: "the factor the gradients were multiplied by",
    height: 96,
    lines: coefLines,
    log: () => true,
  },
  {
    title: "update_ratio",
    hint: "norm of the optimizer's update over that of the weights",
    height: 96,
    robust: true,
    lines: updateLines("update_ratio"),
    log: () => true,
  },
  {
    title: "update_norm",
    hint: "norm of the optimizer's update",
    height: 84,
    robust: true,
    lines: updateLines("update_norm"),
    log: () => true,
  },
  {
    title: "rms_ratio",
    hint: "gradient over the root of the second moment, the largest of all parameters",
    height: 84,
    robust: true,
    lines: updateLines("rms_ratio"),
    log: () => true,
  },
  {
    title: "loss_scale",
    hint: "of the GradScaler",
    height: 84,
    lines: recordedLines("loss_scale"),
    log: () => true,
  },
  {
    title: "noise_scale",
    hint: "in micro-batches or batches of a rank; its trend says more than its value",
    height: 84,
    robust: true,
    lines: recordedLines("noise_scale"),
    log: () => true,
  },
];
