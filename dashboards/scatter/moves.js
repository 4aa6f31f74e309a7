// Moving from point to point, by the pointer and by keys.
/** @import { Brush } from "../types.d.ts" */
/** @import { Cloud } from "./values.js" */

/**
 * All points from left to right, or from below upwards; of equal ones those of earlier steps first. So the arrow keys
 * reach every point.
 *
 * @param {Cloud} cloud
 * @param {"x" | "y"} axis
 * @returns {number[]} indices
 */
export function ordered(cloud, axis) {
  const [first, second] = axis === "x" ? [cloud.x, cloud.y] : [cloud.y, cloud.x];
  return [...first.keys()].sort((a, b) => first[a] - first[b] || second[a] - second[b] || a - b);
}

/**
 * The point after or before another one; the first or the last one from none, and at the ends the same one.
 *
 * @param {number[]} order
 * @param {number | null} from
 * @param {number} by 1 or -1
 * @returns {number | null} null if there is no point
 */
export function nextPoint(order, from, by) {
  if (!order.length) return null;
  const at = from === null ? -1 : order.indexOf(from);
  if (at < 0) return by > 0 ? order[0] : order[order.length - 1];
  return order[Math.max(0, Math.min(order.length - 1, at + by))];
}

/**
 * The point nearest to a place, or null if none is within reach.
 *
 * @param {Cloud} cloud
 * @param {(point: number) => number} distance
 * @param {number} reach
 * @returns {number | null}
 */
export function nearestPoint(cloud, distance, reach) {
  let [best, least] = [/** @type {number | null} */ (null), reach];
  for (let i = 0; i < cloud.x.length; i++) {
    const far = distance(i);
    if (far > least) continue;
    [best, least] = [i, far];
  }
  return best;
}

/**
 * The rectangle around two points.
 *
 * @param {Cloud} cloud
 * @param {number} one
 * @param {number} other
 * @returns {Brush}
 */
export function brushAround({ x, y }, one, other) {
  return [
    Math.min(x[one], x[other]),
    Math.max(x[one], x[other]),
    Math.min(y[one], y[other]),
    Math.max(y[one], y[other]),
  ];
}
