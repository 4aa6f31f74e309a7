// Numbers, steps and names as text.
/** @import { JsonNumber } from "../types.d.ts" */

/**
 * A number with three significant digits, or a whole one below 100,000: 0.0123, 12346, 1.25e-4, 1.23e5.
 *
 * @param {JsonNumber | undefined} value JSON's "NaN" and "Infinity" stay as they are
 * @param {number} [digits]
 */
export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const size = Math.abs(value);
  const plain = value === 0 || (size >= 1e-3 && size < Math.max(99999.5, 10 ** digits - 0.5));
  if (plain) return String(size >= 10 ** (digits - 1) ? +value.toFixed(0) : Number(value.toPrecision(digits)));
  return value
    .toExponential(digits - 1)
    .replace(/\.?0*e/, "e")
    .replace("e+", "e");
}

/**
 * "low to high", with as many digits as it takes to tell them apart; one number if they are equal.
 *
 * @param {number} low
 * @param {number} high
 */
export function span(low, high) {
  if (low === high) return number(high);
  for (let digits = 3; digits < 9; digits++) {
    const [from, to] = [number(low, digits), number(high, digits)];
    if (from !== to) return `${from} to ${to}`;
  }
  return number(high);
}

/**
 * All digits of a float32: as few as it takes to read the same number again.
 *
 * @param {number} value
 */
export function allDigits(value) {
  for (let digits = 6; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return String(short);
  }
  return String(Number(value.toPrecision(9)));
}

/**
 * A share as a percentage. Only nothing reads 0%, and only everything reads 100%.
 *
 * @param {JsonNumber | undefined} value
 */
export function share(value) {
  if (typeof value !== "number") return value ?? "–";
  const percent = 100 * value;
  const size = Math.abs(percent);
  if (0 < size && size < 0.01) return percent > 0 ? "<0.01%" : ">-0.01%";
  if (99.95 <= percent && percent < 100) return ">99.9%";
  return `${0.01 <= size && size < 0.095 ? percent.toFixed(2) : +percent.toFixed(1)}%`;
}

/**
 * A whole number with separated thousands.
 *
 * @param {number} value
 */
export function whole(value) {
  return Math.round(value).toLocaleString("en-US");
}

/**
 * An amount of things: "1 step", "2,000 steps".
 *
 * @param {number} amount
 * @param {string} thing
 */
export function count(amount, thing) {
  return `${whole(amount)} ${thing}${amount === 1 ? "" : "s"}`;
}

/**
 * One step or a span of steps.
 *
 * @param {number} first
 * @param {number} last
 */
export function steps(first, last) {
  return first === last ? `step ${whole(first)}` : `steps ${whole(first)} to ${whole(last)}`;
}

/**
 * A name of at most `length` characters: without the parts before its first number if that is enough, which keeps what
 * tells layers apart; else cut in its middle as well.
 *
 * @param {string} name
 * @param {number} length
 */
export function fit(name, length) {
  const parts = name.split(".");
  const numbered = parts.findIndex((part) => /\d/.test(part));
  let rest = name;
  for (let dropped = 1; rest.length > length && dropped <= numbered; dropped++)
    rest = `…${parts.slice(dropped).join(".")}`;
  if (rest.length <= length) return rest;
  const left = Math.floor((length - 1) / 2);
  return `${rest.slice(0, left)}…${rest.slice(rest.length - (length - 1 - left))}`;
}
