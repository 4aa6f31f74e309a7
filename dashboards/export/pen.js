// Draws as vectors what is drawn on a canvas: the part of CanvasRenderingContext2D that the page uses, as SVG.
import { round, VectorPath } from "./path.js";
import { attributes, escaped } from "./xml.js";

/**
 * @typedef {object} Measured
 * @property {number} width px
 * @property {number} drop px from where the text is put to its base line
 */
/** @typedef {(text: string, font: string, baseline: string) => Measured} Measure */

const ANCHORS = /** @type {Record<string, string>} */ ({ center: "middle", right: "end" });

export class VectorPen extends VectorPath {
  fillStyle = "#000000";
  strokeStyle = "#000000";
  lineWidth = 1;
  font = "10px sans-serif";
  textAlign = "left";
  textBaseline = "alphabetic";
  globalAlpha = 1;
  imageSmoothingEnabled = true;
  /** @type {string[]} */ #parts = [];
  /** @type {(() => void)[]} */ #saved = [];
  /** @type {number[]} */ #dash = [];
  /** @type {string | undefined} */ #clip;
  #clips = 0;
  #measure;
  #prefix;

  /**
   * @param {Measure} measure
   * @param {string} prefix of the names of clips, which must differ within a file
   */
  constructor(measure, prefix) {
    super();
    this.#measure = measure;
    this.#prefix = prefix;
  }

  /** What was drawn, as elements. */
  get content() {
    return this.#parts.join("\n");
  }

  save() {
    const { fillStyle, strokeStyle, lineWidth, font, textAlign, textBaseline, globalAlpha, moved, scaled } = this;
    const look = { fillStyle, strokeStyle, lineWidth, font, textAlign, textBaseline, globalAlpha, moved, scaled };
    const [dash, clip] = [this.#dash, this.#clip];
    this.#saved.push(() => {
      Object.assign(this, look);
      [this.#dash, this.#clip] = [dash, clip];
    });
  }

  restore() {
    this.#saved.pop()?.();
  }

  /** @param {number[]} dash */
  setLineDash(dash) {
    this.#dash = dash;
  }

  clip() {
    const id = `${this.#prefix}-${++this.#clips}`;
    const path = `<path${attributes({ d: this.d, "clip-path": this.#clip && `url(#${this.#clip})` })}/>`;
    this.#parts.push(`<clipPath id="${id}">${path}</clipPath>`);
    this.#clip = id;
  }

  fill() {
    this.#add("path", { d: this.d, fill: this.fillStyle });
  }

  stroke() {
    this.#add("path", { d: this.d, ...this.#stroked() });
  }

  /** @param {number} x @param {number} y @param {number} width @param {number} height */
  fillRect(x, y, width, height) {
    this.#add("path", { d: this.box(x, y, width, height), fill: this.fillStyle });
  }

  /** @param {number} x @param {number} y @param {number} width @param {number} height */
  strokeRect(x, y, width, height) {
    this.#add("path", { d: this.box(x, y, width, height), ...this.#stroked() });
  }

  /** @param {string} text @param {number} x @param {number} y @param {number} [room] px that it may take */
  fillText(text, x, y, room = Infinity) {
    const { width, drop } = this.#measure(text, this.font, this.textBaseline);
    const [left, base] = this.at(x, y + drop).map(round);
    const squeezed = width > room;
    const given = {
      x: left,
      y: base,
      fill: this.fillStyle,
      style: `font:${this.font.replace(/[\d.]+(?=px)/, (size) => String(round(Number(size) * this.scaled[0])))}`,
      "text-anchor": ANCHORS[this.textAlign],
      textLength: squeezed ? round(room * this.scaled[0]) : undefined,
      lengthAdjust: squeezed ? "spacingAndGlyphs" : undefined,
    };
    this.#add("text", given, escaped(text));
  }

  /**
   * An image is embedded.
   *
   * @param {OffscreenCanvas | HTMLCanvasElement} image
   * @param {number} x
   * @param {number} y
   * @param {number} [width]
   * @param {number} [height]
   */
  drawImage(image, x, y, width = image.width, height = image.height) {
    const [[left, top], [right, bottom]] = [this.at(x, y), this.at(x + width, y + height)];
    const box = { x: left, y: top, width: right - left, height: bottom - top, preserveAspectRatio: "none" };
    const style = this.imageSmoothingEnabled ? undefined : "image-rendering:pixelated";
    this.#add("image", { ...box, style, href: urlOf(image) });
  }

  #stroked() {
    const [by] = this.scaled;
    const dash = this.#dash.length ? this.#dash.map((one) => round(one * by)).join(" ") : undefined;
    const width = round(this.lineWidth * by);
    return { fill: "none", stroke: this.strokeStyle, "stroke-width": width, "stroke-dasharray": dash };
  }

  /** @param {string} tag @param {Record<string, string | number | undefined>} given @param {string} [inner] */
  #add(tag, given, inner = "") {
    const opacity = this.globalAlpha < 1 ? this.globalAlpha : undefined;
    const all = attributes({ ...given, opacity, "clip-path": this.#clip && `url(#${this.#clip})` });
    this.#parts.push(inner ? `<${tag}${all}>${inner}</${tag}>` : `<${tag}${all}/>`);
  }
}

/** @param {OffscreenCanvas | HTMLCanvasElement} image */
function urlOf(image) {
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [image.width, image.height];
  sheet.getContext("2d")?.drawImage(image, 0, 0);
  return sheet.toDataURL();
}
