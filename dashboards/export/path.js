// Paths as SVG writes them, built by the calls of a canvas.

export class VectorPath {
  /** What is added to a place, after it is scaled. @type {[x: number, y: number]} */ moved = [0, 0];
  /** @type {[x: number, y: number]} */ scaled = [1, 1];
  /** @type {string[]} */ #path = [];

  /** The path as an attribute. */
  get d() {
    return this.#path.join("");
  }

  /** @param {number} x @param {number} y */
  translate(x, y) {
    this.moved = this.at(x, y);
  }

  /** @param {number} x @param {number} y */
  scale(x, y) {
    this.scaled = [this.scaled[0] * x, this.scaled[1] * y];
  }

  beginPath() {
    this.#path = [];
  }

  closePath() {
    this.#path.push("Z");
  }

  /** @param {number} x @param {number} y */
  moveTo(x, y) {
    this.#path.push(`M${this.#place(x, y)}`);
  }

  /** @param {number} x @param {number} y */
  lineTo(x, y) {
    this.#path.push(`${this.#path.length ? "L" : "M"}${this.#place(x, y)}`);
  }

  /** @param {number} x @param {number} y @param {number} width @param {number} height */
  rect(x, y, width, height) {
    this.#path.push(this.box(x, y, width, height));
  }

  /** A whole circle, as all arcs of the page are. @param {number} x @param {number} y @param {number} radius */
  arc(x, y, radius) {
    const [left, right] = [this.#place(x - radius, y), this.#place(x + radius, y)];
    const r = round(radius * this.scaled[0]);
    this.#path.push(`M${left}A${r} ${r} 0 1 1 ${right}A${r} ${r} 0 1 1 ${left}Z`);
  }

  /** A rectangle by itself. @param {number} x @param {number} y @param {number} width @param {number} height */
  box(x, y, width, height) {
    const [[left, top], [right, bottom]] = [this.at(x, y), this.at(x + width, y + height)];
    return `M${round(left)} ${round(top)}H${round(right)}V${round(bottom)}H${round(left)}Z`;
  }

  /** Where a place lies in the file. @param {number} x @param {number} y @returns {[x: number, y: number]} */
  at(x, y) {
    return [this.moved[0] + x * this.scaled[0], this.moved[1] + y * this.scaled[1]];
  }

  /** @param {number} x @param {number} y */
  #place(x, y) {
    return this.at(x, y).map(round).join(" ");
  }
}

/** A hundredth of a pixel is enough. @param {number} value */
export function round(value) {
  return Math.round(value * 100) / 100;
}
