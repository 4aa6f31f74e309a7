// Layers x steps as colours; of the steps, and of the layers, that share a pixel the largest value is shown.
import { AXIS, RIGHT, mark, nearest } from "./charts.js";
import { faded, gradient, ink, palette, pixel } from "./colours.js";
import { fit, h, number, share, steps } from "./text.js";

export const GUTTER = 150; // px; page.css has the same
const ABSENT = -1;
const TALLEST = 22;
const FOOT = 12; // px, below the layers, for the marks of events

// How a statistic is shown: on which scale, and what its value is called.
const SCALES = {
  norm: { label: "gradient norm", log: true },
  relative: { label: "norm beside the layer's own median", log: true, ends: [0.01, 100], kind: "around", of: "norm" },
  abs_max: { label: "largest entry (abs_max)", log: true },
  zeros: { label: "share of zero entries (zeros)", ends: [0, 1], share: true },
  nonfinite: { label: "entries that are not finite (nonfinite)", log: true },
  update_ratio: { label: "update_ratio, sampled", log: true },
  rank_norm: { label: "norm of each rank", log: true, ranks: true },
  rank_nonfinite: { label: "entries of each rank that are not finite", log: true, ranks: true },
  rank_differing: { label: "gradients of a rank that differ from the others'", log: true, ranks: true },
};

export function choices(stats) {
  return Object.entries(SCALES).filter(([name, scale]) => stats.includes(scale.of ?? name)).map(([name, scale]) => [name, scale.label]);
}

export function statistic(name) {
  return SCALES[name].of ?? name;
}

/** What has a row where a statistic is shown: each layer, or each process of a training by several. */
export function things(stat, { layers, ranks, telling }) {
  if (!SCALES[stat].ranks) return { layers, telling };
  const all = [...Array(ranks).keys()];
  return { layers: all.map((rank) => ({ name: `rank ${rank}`, numel: 1 })), telling: all };
}

/** The rows to show: layers that match a filter, joined by module, in the order asked for. */
export function rowsOf(layers, telling, { filter, depth, sort }) {
  let matches = () => true;
  if (filter) {
    const pattern = new RegExp(filter, "i");
    matches = (layer) => pattern.test(layer.name);
  }
  const order = sort === "trouble" ? telling : layers.map((_, i) => i);
  const groups = new Map();
  for (const i of order.filter((i) => matches(layers[i]))) {
    const name = depth ? layers[i].name.split(".").slice(0, depth).join(".") : layers[i].name;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(i);
  }
  return [...groups].map(([name, members]) => ({ name: members.length > 1 ? `${name} (${members.length})` : layers[members[0]].name, members }));
}

export class HeatMap {
  /** `page` as for a Chart, and chooseRow(row). */
  constructor(page) {
    this.page = page;
    this.canvas = h("canvas", { class: "heat", role: "img" });
    this.cursor = h("div", { class: "heat-cursor", hidden: true });
    this.readout = h("p", { class: "readout", "aria-live": "off" }, "");
    this.legend = h("div", { class: "legend" });
    this.box = h("div", { class: "heat-box" }, this.canvas, this.cursor);
    this.element = h("div", {}, h("div", { class: "heat-head" }, this.legend, this.readout), this.box);
    this.#listen();
  }

  /** `tile` has the columns' first and last steps and values (columns, layers); `whole` is that of the whole run. */
  show({ stat, tile, whole, rows, layers }) {
    Object.assign(this, { stat, tile, rows, layers, scale: SCALES[stat] });
    if (whole !== this.whole || stat !== this.scaledFor) {
      [this.low, this.high] = this.scale.ends ?? this.#extent(whole);
      [this.whole, this.scaledFor] = [whole, stat];
    }
    this.#describe();
    this.draw();
    performance.mark("gradwatch: layers drawn");
  }

  get width() {
    return Math.max(1, this.box.clientWidth - GUTTER - AXIS - RIGHT);
  }

  draw() {
    if (!this.tile || !this.rows || !this.box.clientWidth) return;
    const room = Math.max(180, Math.min(560, window.innerHeight * 0.6));
    const tall = Math.min(TALLEST, Math.max(1, Math.floor(room / Math.max(1, this.rows.length))));
    this.lines = Math.max(1, Math.min(this.rows.length, Math.floor(room)));
    this.height = this.lines * tall;
    this.tall = tall;
    const unit = devicePixelRatio;
    this.canvas.width = this.box.clientWidth * unit;
    this.canvas.height = (this.height + FOOT) * unit;
    this.canvas.style.height = `${this.height + FOOT}px`;
    const ctx = this.canvas.getContext("2d");
    ctx.scale(unit, unit);
    this.#paint(ctx);
    this.#labels(ctx);
    this.#marks(ctx);
  }

  #paint(ctx) {
    const wide = Math.round(this.width * devicePixelRatio);
    const image = new ImageData(wide, this.lines);
    const pixels = new Uint32Array(image.data.buffer);
    const colours = ink(this.page.theme);
    const shades = palette(this.scale.kind, this.page.theme);
    const [bad, absent] = [pixel(colours.bad), pixel(colours.absent)];
    const [begins, ends] = this.#columns(wide);
    const scaled = this.#scaled();
    for (let line = 0; line < this.lines; line++) {
      const members = this.#membersOf(line);
      for (let x = 0; x < wide; x++) {
        let most = -Infinity;
        for (let c = begins[x]; c < ends[x]; c++)
          for (const layer of members) {
            const shown = this.#shown(c, layer);
            if (shown > most) most = shown;
          }
        pixels[line * wide + x] =
          most === -Infinity ? 0 : most === Infinity ? bad : most === ABSENT ? absent : shades[scaled(most)];
      }
    }
    const sheet = new OffscreenCanvas(wide, this.lines);
    sheet.getContext("2d").putImageData(image, 0, 0);
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(sheet, GUTTER + AXIS, 0, this.width, this.height);
  }

  /** For each pixel from which column to before which it shows; none where the run has no step. */
  #columns(wide) {
    const { first, last } = this.tile.arrays;
    const [from, to] = this.page.range();
    const [begins, ends] = [new Int32Array(wide), new Int32Array(wide)];
    let [begin, end] = [0, 0];
    for (let x = 0; x < wide; x++) {
      const left = from + ((to - from) * x) / wide;
      const right = from + ((to - from) * (x + 1)) / wide;
      while (begin < last.length && last[begin] + 0.5 <= left) begin++;
      end = Math.max(end, begin);
      while (end < first.length && first[end] - 0.5 < right) end++;
      // What is sampled lasts until the next sample.
      const lasting = begin === end && begin > 0 && begin < first.length && this.stat === "update_ratio";
      begins[x] = lasting ? begin - 1 : begin;
      ends[x] = end;
    }
    return [begins, ends];
  }

  /** The value of a layer in a column as it is shown; Infinity and ABSENT stand for themselves. */
  #shown(c, layer) {
    const { values } = this.tile.arrays;
    const value = values[c * values.shape[1] + layer];
    return value === Infinity || value === ABSENT ? value : value / this.#unit(layer);
  }

  /** What the values of a layer are divided by. */
  #unit(layer) {
    if (this.stat === "relative") return this.layers[layer].median || 1;
    return this.stat === "zeros" ? this.layers[layer].numel || 1 : 1;
  }

  /** A function from a value to the number of its colour. */
  #scaled() {
    const { log } = this.scale;
    const [low, high] = log ? [Math.log(this.low), Math.log(this.high)] : [this.low, this.high];
    const factor = 255 / Math.max(1e-12, high - low);
    return (value) => {
      const place = ((log ? Math.log(value) : value) - low) * factor;
      return place > 0 ? (place < 255 ? Math.round(place) : 255) : 0; // the logarithm of 0 is below every colour
    };
  }

  /** From the 1st to the 99.5th percentile of what there is, two decades at least. */
  #extent(tile) {
    const known = Array.from(tile.arrays.values.filter((value) => value > 0 && value < Infinity)).sort((a, b) => a - b);
    if (!known.length) return [0.1, 10];
    const at = (part) => known[Math.round(part * (known.length - 1))];
    const [low, high] = [at(0.01), at(0.995)];
    const middle = Math.sqrt(low) * Math.sqrt(high);
    return [Math.min(low, middle / 10), Math.max(high, middle * 10)];
  }

  /** The layers that a line of pixels shows. */
  #membersOf(line) {
    const begin = Math.floor((line * this.rows.length) / this.lines);
    const end = Math.max(begin + 1, Math.floor(((line + 1) * this.rows.length) / this.lines));
    return this.rows.slice(begin, end).flatMap((row) => row.members);
  }

  #labels(ctx) {
    const colours = ink(this.page.theme);
    ctx.font = "11px system-ui, sans-serif";
    ctx.textBaseline = "middle";
    ctx.textAlign = "right";
    const between = Math.max(1, Math.ceil(13 / this.tall));
    for (let line = 0; line < this.lines; line++) {
      const row = this.rows[Math.floor((line * this.rows.length) / this.lines)];
      const chosen = this.page.isChosen(row);
      if (!row || (line % between && !chosen)) continue;
      ctx.fillStyle = chosen ? colours.chosen : colours.faint;
      ctx.font = chosen ? "bold 11px system-ui, sans-serif" : "11px system-ui, sans-serif";
      const y = Math.max(6, (line + 0.5) * this.tall);
      if (chosen) {
        ctx.strokeStyle = colours.chosen;
        ctx.strokeRect(GUTTER + AXIS - 0.5, line * this.tall - 0.5, this.width + 1, this.tall + 1);
      }
      ctx.fillText(fit(row.name, 34), GUTTER + AXIS - 6, y, GUTTER + AXIS - 10);
    }
  }

  #marks(ctx) {
    const { chosen, events } = this.page.marks();
    const colours = ink(this.page.theme);
    let drawn = -Infinity;
    for (const event of events) {
      const x = this.#x(event.step);
      if (event.severity === "info" || x - drawn < 3 || !this.#holds(x)) continue;
      drawn = x;
      ctx.fillStyle = colours[event.severity];
      mark(ctx, x, this.height + 6, event.severity, 4);
    }
    if (!chosen || !this.#holds(this.#x(chosen.step))) return;
    const x = this.#x(chosen.step);
    ctx.strokeStyle = faded(colours.chosen, 0.8);
    ctx.setLineDash([2, 3]);
    ctx.beginPath();
    ctx.moveTo(x, 0);
    ctx.lineTo(x, this.height);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  #holds(x) {
    return x >= GUTTER + AXIS && x <= GUTTER + AXIS + this.width;
  }

  #x(step) {
    const [from, to] = this.page.range();
    return GUTTER + AXIS + ((step - from) / (to - from)) * this.width;
  }

  #stepAt(x) {
    const [from, to] = this.page.range();
    return from + ((x - GUTTER - AXIS) / this.width) * (to - from);
  }

  /** A line under the cursor of the charts. */
  cursorAt(step) {
    const x = step === null ? -1 : this.#x(step);
    this.cursor.hidden = x < GUTTER + AXIS || x > GUTTER + AXIS + this.width;
    this.cursor.style.left = `${x}px`;
    this.cursor.style.height = `${this.height ?? 0}px`;
  }

  /** What is shown of a row, for a chart: the largest value in each column. */
  line(row) {
    const { first, last } = this.tile.arrays;
    const high = Float64Array.from(first, (_, c) => {
      let most = NaN;
      for (const layer of row.members) {
        const shown = this.#shown(c, layer);
        if (shown !== ABSENT && shown !== Infinity && !(shown <= most)) most = shown;
      }
      return most;
    });
    return { first, last, high };
  }

  get title() {
    return this.scale.label;
  }

  #describe() {
    const colours = ink(this.page.theme);
    const text = (value) => (this.scale.share ? share(value) : number(value));
    const box = (colour) => h("span", { class: "swatch", style: `background:${colour}` });
    this.legend.replaceChildren(
      h("span", {}, text(this.low)),
      h("span", { class: "ramp", style: `background:${gradient(this.scale.kind, this.page.theme)}` }),
      h("span", {}, text(this.high)),
      h("span", {}, box(colours.bad), "not finite"),
      h("span", {}, box(colours.absent), "no gradient"),
    );
    const worst = this.rows.length ? `; the first is ${this.rows[0].name}` : "";
    const [from, to] = this.page.range();
    const label = `${this.scale.label} of ${this.rows.length} rows over ${steps(Math.max(0, Math.ceil(from)), Math.floor(to))}${worst}`;
    this.canvas.setAttribute("aria-label", label);
  }

  #listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let pressed = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      pressed = { x: event.clientX, range: this.page.range(), moved: false };
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (pressed && Math.abs(event.clientX - pressed.x) > 3) pressed.moved = true;
      if (pressed?.moved) {
        const [from, to] = pressed.range;
        const by = ((pressed.x - event.clientX) / this.width) * (to - from);
        this.page.zoomTo(from + by, to + by);
        return;
      }
      this.#tell(x, y);
    });
    this.canvas.addEventListener("pointerup", (event) => {
      const [x, y] = at(event);
      const moved = pressed?.moved;
      pressed = null;
      if (moved || !this.rows?.length) return;
      if (y <= this.height) this.page.chooseRow(this.#rowAt(y));
      else this.page.chooseNear((step) => this.#x(step) - x);
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.readout.textContent = "";
      this.page.cursorAt(null);
    });
    this.canvas.addEventListener("dblclick", () => this.page.resetZoom());
    this.canvas.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return; // the page scrolls
        event.preventDefault();
        this.page.zoomBy(Math.exp((event.deltaY || event.deltaX) / 300), this.#stepAt(at(event)[0]));
      },
      { passive: false },
    );
  }

  #rowAt(y) {
    const line = Math.max(0, Math.min(this.lines - 1, Math.floor(y / this.tall)));
    return this.rows[Math.floor((line * this.rows.length) / this.lines)];
  }

  /** Tells layer, steps and value under the pointer. */
  #tell(x, y) {
    if (!this.rows?.length || !this.tile || x < GUTTER + AXIS || y > this.height) {
      this.readout.textContent = "";
      return;
    }
    const step = this.#stepAt(x);
    this.page.cursorAt(step);
    const row = this.#rowAt(y);
    const { first, last } = this.tile.arrays;
    if (!first.length) return;
    const c = nearest(this.tile.arrays, step);
    const most = Math.max(...row.members.map((layer) => this.#shown(c, layer)));
    const text = most === Infinity ? "not finite" : most === ABSENT ? "no gradient" : this.scale.share ? share(most) : `${this.stat === "relative" ? "× " : ""}${number(most)}`;
    this.readout.textContent = `${row.name} · ${steps(first[c], last[c])} · ${first[c] === last[c] ? "" : "largest "}${text}`;
  }
}
