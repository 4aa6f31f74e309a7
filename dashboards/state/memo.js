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
