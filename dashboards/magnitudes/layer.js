// Which layer's entries are shown, and that layer alone out of those that a file holds.
/** @import { Layers, Magnitudes } from "../types.d.ts" */

/**
 * The position of the layer that is shown: the chosen one, or of a group the one that tells most of a fault.
 *
 * @param {string | null} chosen the name of a row or of a layer
 * @param {Layers} about
 * @returns {number | null}
 */
export function layerShown(chosen, { layers, telling }) {
  if (chosen === null) return null;
  const own = layers.findIndex(({ name }) => name === chosen);
  if (own >= 0) return own;
  const group = /^(.*) \(\d+\)$/.exec(chosen)?.[1];
  if (group === undefined) return null;
  return telling.find((i) => layers[i].name === group || layers[i].name.startsWith(`${group}.`)) ?? null;
}

/**
 * One layer's entries; no sample if they are not held.
 *
 * @param {Magnitudes} magnitudes
 * @param {number} layer
 * @returns {Magnitudes}
 */
export function layerOf({ about, arrays }, layer) {
  const [samples, layers, bins] = arrays.counts.shape;
  const at = about.layers.indexOf(layer);
  const size = at < 0 ? 0 : samples;
  const counts = new Float32Array(size * bins);
  for (let i = 0; i < size; i++) {
    const from = (i * layers + at) * bins;
    counts.set(arrays.counts.subarray(from, from + bins), i * bins);
  }
  /** @type {[number, number, number]} */
  const shape = [size, 1, bins];
  const { step, loss_scale } = arrays;
  return {
    about: { ...about, layers: [layer], counted: at < 0 ? 0 : about.counted },
    arrays: {
      step: step.subarray(0, size),
      loss_scale: loss_scale.subarray(0, size),
      counts: Object.assign(counts, { shape }),
    },
  };
}
