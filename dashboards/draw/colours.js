// Colours that survive colour blindness, on a light and on a dark background.
/** @import { Theme } from "../types.d.ts" */

// Okabe and Ito (2008), without their yellow, which is invisible on white.
const RUNS = {
  light: ["#0072b2", "#b35900", "#00795a", "#a3487f", "#3a6ea5", "#6b6b00"],
  dark: ["#56b4e9", "#e69f00", "#2bc79a", "#e19ac0", "#9ecbff", "#d8d26a"],
};

const INK = {
  light: {
    text: "#1f2328",
    faint: "#57606a",
    grid: "#e3e6ea",
    line: "#8c959f",
    back: "#ffffff",
    critical: "#b3261e",
    warning: "#9a5b00",
    info: "#57606a",
    bad: "#d6006c",
    hatch: "#ffffff",
    absent: "#eceff2",
    chosen: "#1f2328",
  },
  dark: {
    text: "#e6edf3",
    faint: "#a0a8b2",
    grid: "#31363d",
    line: "#6e7681",
    back: "#1e1f22",
    critical: "#ff8a80",
    warning: "#ffb454",
    info: "#a0a8b2",
    bad: "#ff4fa3",
    hatch: "#1e1f22",
    absent: "#2a2d31",
    chosen: "#ffffff",
  },
};

// Viridis (van der Walt and Smith 2015) at nine points: equal steps of lightness.
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
// Below and above a level: blue and orange differ in every kind of colour blindness.
const AROUND = {
  light: ["#08306b", "#2171b5", "#6baed6", "#c6dbef", "#f4f4f4", "#fdd0a2", "#fd8d3c", "#d94801", "#7f2704"],
  dark: ["#9ecae1", "#6baed6", "#3182bd", "#1b4f7a", "#2c2e31", "#7a4310", "#c2610c", "#fd8d3c", "#fee6ce"],
};

// Plasma (van der Walt and Smith 2015), the part that stands out from the background (3 to 1 at least).
const STEPS = {
  light: ["#0d0887", "#5302a3", "#8b0aa5", "#b83289", "#d3526a"],
  dark: ["#c549a0", "#db5c68", "#f48849", "#febd2a", "#f0f921"],
};
const SHADES = 64; // of steps

/** @typedef {"around" | undefined} Scale which colours: around a level, or from low to high */

/**
 * The colour of a run by its place among those drawn.
 *
 * @param {number} index
 * @param {Theme} theme
 */
export function runColour(index, theme) {
  return RUNS[theme][index % RUNS[theme].length];
}

/**
 * The colours of a theme by purpose.
 *
 * @param {Theme} theme
 */
export function ink(theme) {
  return INK[theme];
}

/**
 * 256 colours from the lowest to the highest, each as a pixel of an ImageData.
 *
 * @param {Scale} scale
 * @param {Theme} theme
 */
export function palette(scale, theme) {
  const points = stops(scale, theme).map(parts);
  const pixels = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (points.length - 1);
    const low = Math.min(points.length - 2, Math.floor(at));
    pixels[i] = join(points[low].map((value, k) => value + (points[low + 1][k] - value) * (at - low)));
  }
  return pixels;
}

/**
 * Colours for points, from the first step to the last.
 *
 * @param {Theme} theme
 * @returns {string[]}
 */
export function stepColours(theme) {
  const points = STEPS[theme].map(parts);
  return Array.from({ length: SHADES }, (_, i) => {
    const at = (i / (SHADES - 1)) * (points.length - 1);
    const low = Math.min(points.length - 2, Math.floor(at));
    return `rgb(${points[low].map((value, k) => Math.round(value + (points[low + 1][k] - value) * (at - low))).join(",")})`;
  });
}

/**
 * A colour as a pixel of an ImageData: ABGR, as all current machines are little-endian.
 *
 * @param {string} hex
 */
export function pixel(hex) {
  return join(parts(hex));
}

/**
 * The colours of a palette as a CSS background from left to right.
 *
 * @param {Scale} scale
 * @param {Theme} theme
 */
export function gradient(scale, theme) {
  return gradientOf(stops(scale, theme));
}

/**
 * Colours as a CSS background from left to right.
 *
 * @param {string[]} colours
 */
export function gradientOf(colours) {
  return `linear-gradient(to right, ${colours.join(", ")})`;
}

/**
 * A colour of a palette for CSS, with the ink that can be read on it.
 *
 * @param {number} colour as a pixel
 */
export function cellColours(colour) {
  const channels = [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  const [red, green, blue] = channels.map((value) => (value / 255) ** 2.2); // near enough to sRGB
  const light = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return { background: `rgb(${channels.join(",")})`, color: light > 0.18 ? "#000000" : "#ffffff" };
}

/**
 * A colour with some transparency.
 *
 * @param {string} hex
 * @param {number} alpha
 */
export function faded(hex, alpha) {
  return `rgba(${parts(hex).join(",")},${alpha})`;
}

/** @param {Scale} scale @param {Theme} theme */
function stops(scale, theme) {
  return scale === "around" ? AROUND[theme] : VIRIDIS;
}

/** @param {string} hex */
function parts(hex) {
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}

/** @param {number[]} channels */
function join([red, green, blue]) {
  return ((255 << 24) | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red)) >>> 0;
}
