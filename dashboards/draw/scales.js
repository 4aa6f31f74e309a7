// From values to places: the colours of the heat map and the ticks of logarithmic axes.

/**
 * The ends of a logarithmic colour scale: from the 1st to the 99.5th percentile of the positive finite values, and two
 * decades at least.
 *
 * @param {Float32Array | Float64Array} values
 * @returns {[low: number, high: number]}
 */
export function extent(values) {
  const known = values.filter((value) => value > 0 && value < Infinity).sort();
  if (!known.length) return [0.1, 10];
  const at = (/** @type {number} */ part) => known[Math.round(part * (known.length - 1))];
  const [low, high] = [at(0.01), at(0.995)];
  const middle = Math.sqrt(low) * Math.sqrt(high); // their product may overflow
  return [Math.min(low, middle / 10), Math.max(high, middle * 10)];
}

/**
 * A function from a value to the number of its colour, 0 to 255. Values beyond the ends get the colour of the end.
 *
 * @param {number} low
 * @param {number} high
 * @param {boolean} log
 */
export function colourScale(low, high, log) {
  const [from, to] = log ? [Math.log(low), Math.log(high)] : [low, high];
  const factor = 255 / Math.max(1e-12, to - from);
  return (/** @type {number} */ value) => {
    const place = ((log ? Math.log(value) : value) - from) * factor;
    return place > 0 ? Math.min(255, Math.round(place)) : 0; // the logarithm of 0 is below every colour
  };
}

/**
 * At most about six ticks of a logarithmic axis, as powers of ten: decades if there are two of them, else digits
 * between.
 *
 * @param {number} low a power of ten, not necessarily whole
 * @param {number} high in the same unit
 */
export function decades(low, high) {
  const [begin, end] = [Math.ceil(low - 1e-9), Math.floor(high + 1e-9)];
  const every = Math.ceil((end - begin + 1) / 6);
  const powers = [];
  for (let power = begin; power <= end; power += every) powers.push(power);
  if (powers.length > 1) return powers;
  const digits = high - low > 0.5 ? [1, 2, 5] : [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
  for (let power = begin - 1; power <= end; power++) for (const digit of digits) powers.push(power + Math.log10(digit));
  return [...new Set(powers)].filter((power) => power >= low && power <= high).sort((a, b) => a - b);
}

/**
 * Round numbers between two ends, at most `most` of them.
 *
 * @param {number} low
 * @param {number} high above `low`
 * @param {number} most
 * @returns {number[]}
 */
export function evenTicks(low, high, most) {
  const least = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(least));
  const by = [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= least) ?? 10 * power;
  const begin = Math.ceil(low / by);
  const amount = Math.max(0, Math.floor(high / by) - begin + 1);
  return Array.from({ length: Math.min(amount, most) }, (_, i) => Number(((begin + i) * by).toPrecision(12)));
}

/**
 * The smallest positive value; 1 if there is none.
 *
 * @param {ArrayLike<number>} values
 */
export function smallestPositive(values) {
  let least = Infinity;
  for (let i = 0; i < values.length; i++) if (values[i] > 0 && values[i] < least) least = values[i];
  return Number.isFinite(least) ? least : 1;
}

/**
 * The least and the largest value, without NaN; [Infinity, -Infinity] if there is none.
 *
 * @param {ArrayLike<number>} values
 * @returns {[least: number, largest: number]}
 */
export function ends(values) {
  let [least, largest] = [Infinity, -Infinity];
  for (let i = 0; i < values.length; i++) {
    if (values[i] < least) least = values[i];
    if (values[i] > largest) largest = values[i];
  }
  return [least, largest];
}
