// Looking up steps in columns. A column joins the steps from first[i] to last[i].
/** @typedef {{ first: ArrayLike<number>, last: ArrayLike<number> }} Columns */

/**
 * The last column that begins at or before a step, or 0.
 *
 * @param {Columns} columns
 * @param {number} step
 */
export function columnBefore({ first }, step) {
  let [low, high] = [0, first.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (first[middle] <= step) low = middle;
    else high = middle - 1;
  }
  return low;
}

/**
 * The column nearest to a step, or -1 if the step lies before the first or after the last one: nothing is known there.
 *
 * @param {Columns} columns
 * @param {number} step may lie between whole steps
 */
export function columnAt(columns, step) {
  const { first, last } = columns;
  const size = first.length;
  if (!size) return -1;
  if (step < first[0] - 0.5 || step > last[size - 1] + 0.5) return -1;
  const i = columnBefore(columns, step);
  if (i + 1 < size && first[i + 1] - step < step - last[i]) return i + 1; // between two columns
  return i;
}

/**
 * The sample that holds at a step: the last one taken up to then, or -1 if there is none or the run has ended.
 *
 * @param {Columns} columns
 * @param {number} step
 * @param {number} end the last step of the run
 */
export function sampleAt(columns, step, end) {
  if (!columns.first.length || step < columns.first[0] - 0.5 || step > end + 0.5) return -1;
  return columnBefore(columns, step + 0.5);
}
