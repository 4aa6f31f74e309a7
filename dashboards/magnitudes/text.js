// The entries of one gradient by magnitude, in words.
/** @import { Magnitudes } from "../types.d.ts" */
/** @import { Band } from "./values.js" */
import { count, number, share, whole } from "../draw/text.js";
import { bandsOf, below, countsAt, NORMAL, SMALLEST, scaleAt } from "./values.js";

/**
 * What a sample tells, in words: how much lies below the limits of float16, and what is no number.
 *
 * @param {Magnitudes} magnitudes
 * @param {number} sample
 */
export function sampleText(magnitudes, sample) {
  const found = countsAt(magnitudes, sample);
  const { bins } = magnitudes.about;
  const when = `step ${whole(magnitudes.arrays.step[sample])}`;
  if (!found) return `${when}: no gradient`;
  const { counts, all } = found;
  if (!all) return `${when}: no entries`;
  const of = (/** @type {string} */ name) => counts[bins.indexOf(name)];
  const scale = scaleAt(magnitudes, sample);
  const low = below(magnitudes, counts, SMALLEST - Math.log2(scale));
  const subnormal = below(magnitudes, counts, NORMAL - Math.log2(scale)) - low;
  const scaled = scale === 1 ? "" : ` at loss scale ${number(scale)}`;
  const parts = [
    `${share(low / all)} below fp16's smallest number${scaled}`,
    `${share(subnormal / all)} subnormal in fp16`,
    `${share(of("zero") / all)} zero`,
    ...["inf", "nan"].flatMap((name) =>
      of(name) ? [`${whole(of(name))} ${name === "inf" ? "infinite" : "NaN"}`] : [],
    ),
  ];
  return `${when}: ${parts.join(", ")}; ${whole(all)} ${all === 1 ? "entry" : "entries"} counted`;
}

/**
 * A sample as rows of a table: bin, entries, share.
 *
 * @param {Magnitudes} magnitudes
 * @param {number} sample
 * @returns {string[][]}
 */
export function rowsAt(magnitudes, sample) {
  const found = countsAt(magnitudes, sample);
  if (!found) return [];
  const { counts, all } = found;
  return bandsOf(magnitudes.about.bins)
    .bands.filter(({ bin }) => counts[bin])
    .map(({ bin, text }) => [text, whole(counts[bin]), share(counts[bin] / all)]);
}

/**
 * What one bin of a sample holds.
 *
 * @param {Magnitudes} magnitudes
 * @param {number} sample
 * @param {Band} band
 */
export function binTold(magnitudes, sample, { bin, text }) {
  const found = countsAt(magnitudes, sample);
  const when = `step ${whole(magnitudes.arrays.step[sample])} · ${text}`;
  if (!found) return `${when}: no gradient`;
  const own = found.counts[bin];
  return `${when}: ${whole(own)} of ${whole(found.all)} counted entries (${share(own / (found.all || 1))})`;
}

/** How much was counted. @param {Magnitudes} magnitudes @param {number} entries of the layer */
export function noteText(magnitudes, entries) {
  const { about, arrays } = magnitudes;
  if (!arrays.step.length)
    return "Nothing was counted in these steps, or this file does not hold it: it holds the layers that tell most.";
  const steps = arrays.step.length;
  const of =
    about.counted > steps
      ? `${whole(steps)} of the ${count(about.counted, "sampled step")} here`
      : count(steps, "sampled step");
  const counted = Math.max(0, ...[...arrays.step.keys()].map((sample) => countsAt(magnitudes, sample)?.all ?? 0));
  const part =
    counted < entries
      ? `${whole(counted)} of ${whole(entries)} entries, evenly spaced among those that the gradient stores`
      : entries === 1
        ? "its only entry"
        : `all ${whole(entries)} entries`;
  return `Before clipping, at ${of}; ${part}. Lines: limits of float16, moved by the loss scale where there is one, and of bfloat16.`;
}
