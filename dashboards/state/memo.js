// Keeps results, so that a part that gets the same object again knows that nothing changed.

/**
 * A function that computes again only when an argument is another object or value than at the last call.
 *
 * @template {any[]} Arguments
 * @template Result
 * @param {(...given: Arguments) => Result} compute
 * @returns {(...given: Arguments) => Result}
 */
export function memo(compute) {
  /** @type {Arguments | null} */
  let last = null;
  /** @type {Result} */
  let result;
  return (...given) => {
    if (!last || given.some((one, i) => one !== last?.[i])) {
      result = compute(...given);
      last = given;
    }
    return result;
  };
}

/**
 * A function that gives back the last record as long as the next ones hold the same.
 *
 * @template Entry
 * @returns {(record: Record<string, Entry>) => Record<string, Entry>}
 */
export function steady() {
  /** @type {Record<string, Entry>} */
  let last = {};
  return (record) => {
    const names = Object.keys(record);
    const same = names.length === Object.keys(last).length && names.every((name) => last[name] === record[name]);
    if (!same) last = record;
    return last;
  };
}
