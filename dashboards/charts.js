// Lines over steps: a band from the least to the largest of each column, so that no zoom hides a step.
import uPlot from "./vendor/uplot/uPlot.esm.js";
import { faded, ink } from "./colours.js";
import { h, number, steps } from "./text.js";

export const AXIS = 56; // px, at the left of what is drawn
export const RIGHT = 14;

/** One chart in a row of its own; all charts of a page have their steps, their cursor and their marks in common. */
export class Chart {
  /** `page` has range(), theme, marks(), zoomTo(from, to), resetZoom(), chooseNear(distance), cursorAt(step). */
  constructor(page, { title, hint, height = 120, log = false, share = false }) {
    this.page = page;
    this.log = log;
    this.share = share;
    this.height = height;
    this.lines = [];
    this.readout = h("p", { class: "readout" });
    this.plot = h("div", { class: "plot", role: "img", "aria-label": title });
    this.title = title;
    this.element = h(
      "section",
      { class: "track", "aria-label": title },
      h("div", { class: "gutter" }, h("h3", { title: hint }, title), this.readout),
      this.plot,
    );
  }

  /**
   * Draws lines, each with label, colour, first, last and high, perhaps low, at, dash and width.
   * `first` and `last` are the steps of each column, `at` the step of its largest value, `note(i)` what else to tell of it.
   */
  show(lines) {
    this.lines = lines.filter((line) => line.first.length);
    this.element.hidden = !this.lines.length;
    if (!this.lines.length) return;
    this.#draw();
  }

  #draw() {
    const tables = this.lines.map((line) => {
      const x = Array.from(line.first, (first, i) => (first + line.last[i]) / 2);
      const floor = this.log ? smallest(line.high) / 10 : 0;
      const known = (values) =>
        Array.from(values, (value) => (Number.isFinite(value) ? (this.log ? Math.log10(Math.max(value, floor)) : value) : null));
      return line.low ? [x, known(line.high), known(line.low)] : [x, known(line.high)];
    });
    const data = tables.length === 1 ? tables[0] : uPlot.join(tables);
    const width = Math.max(240, this.plot.clientWidth);
    this.chart?.destroy();
    this.chart = new uPlot(this.#options(width), data, this.plot);
    this.plot.setAttribute("aria-label", `${this.title}: ${this.lines.map(spoken).join("; ")}`);
  }

  #options(width) {
    const colours = ink(this.page.theme);
    const series = [{}];
    const bands = [];
    for (const line of this.lines) {
      const look = { stroke: line.colour, width: line.width ?? 1.2, dash: line.dash, points: { show: false } };
      series.push({ ...look, label: line.label });
      if (line.low) {
        bands.push({ series: [series.length - 1, series.length], fill: faded(line.colour, 0.35) });
        series.push({ ...look, label: `${line.label}, least`, width: 0.6 });
      }
    }
    const axis = { stroke: colours.faint, grid: { stroke: colours.grid, width: 1 }, ticks: { stroke: colours.grid } };
    const y = this.share
      ? { range: () => [0, 1] }
      : { range: (u, low, high) => this.#ends(low, high) };
    return {
      width,
      height: this.height,
      padding: [6, RIGHT, 0, 0],
      legend: { show: false },
      scales: { x: { time: false, range: () => this.page.range() }, y },
      axes: [
        { ...axis, size: 28, gap: 3, font: "11px system-ui", values: (u, at) => at.map((step) => (Number.isInteger(step) ? step.toLocaleString("en-US") : "")) },
        { ...axis, size: AXIS, font: "11px system-ui", ...(this.log ? LOGARITHMIC : { values: (u, at) => at.map(number) }) },
      ],
      series,
      bands,
      cursor: {
        sync: { key: "gradwatch" },
        drag: { x: true, y: false, setScale: false },
        points: { show: false },
        bind: { dblclick: () => () => this.page.resetZoom() },
      },
      hooks: {
        draw: [(u) => this.#marks(u)],
        ready: [(u) => this.#clicks(u)],
        setCursor: [(u) => this.#tell(u)],
        setSelect: [
          (u) => {
            if (u.select.width < 4) return;
            const [from, to] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
            u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
            this.page.zoomTo(from, to);
          },
        ],
      },
    };
  }

  #ends(low, high) {
    if (low === null || high === null || !Number.isFinite(low)) return this.log ? [-1, 1] : [0, 1];
    if (this.log) return high - low < 0.3 ? [low - 0.15, high + 0.15] : [low - 0.04 * (high - low), high + 0.04 * (high - low)];
    if (low === high) return [low - Math.abs(low || 1) * 0.1, high + Math.abs(high || 1) * 0.1];
    return uPlot.rangeNum(low, high, 0.08, true);
  }

  /** Steps that are not finite, and events, on every chart alike. */
  #marks(u) {
    const { bad, events, chosen } = this.page.marks();
    const colours = ink(this.page.theme);
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const unit = devicePixelRatio;
    const x = (step) => u.valToPos(step, "x", true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    for (const [first, last, infinite] of bad) {
      const begin = x(first - 0.5);
      const wide = Math.max(2 * unit, x(last + 0.5) - begin);
      ctx.fillStyle = faded(colours.bad, 0.22);
      ctx.fillRect(begin, top, wide, height);
      ctx.fillStyle = colours.bad;
      ctx.fillRect(begin, top, wide, 4 * unit);
      if (infinite) mark(ctx, begin + wide / 2, top + 9 * unit, "critical", 4 * unit); // NaN has no direction
    }
    let drawn = -Infinity;
    for (const event of events) {
      const at = x(event.step);
      if (event !== chosen && (event.severity === "info" || at - drawn < 3 * unit)) continue;
      drawn = at;
      ctx.strokeStyle = ctx.fillStyle = event === chosen ? colours.chosen : colours[event.severity];
      ctx.lineWidth = event === chosen ? 2 * unit : unit;
      ctx.setLineDash(event === chosen ? [] : [3 * unit, 3 * unit]);
      ctx.beginPath();
      ctx.moveTo(at, top);
      ctx.lineTo(at, top + height);
      ctx.stroke();
      mark(ctx, at, top + height - 5 * unit, event.severity, 4 * unit);
    }
    ctx.restore();
  }

  /** A click at an event's mark leads to the event; the end of a drag is no click. */
  #clicks(u) {
    let began = 0;
    u.over.addEventListener("mousedown", (press) => (began = press.clientX));
    u.over.addEventListener("click", (press) => {
      if (Math.abs(press.clientX - began) <= 3) this.page.chooseNear((step) => u.valToPos(step, "x") - press.offsetX);
    });
  }

  #tell(u) {
    const { left } = u.cursor;
    if (left === undefined || left < 0) {
      this.readout.replaceChildren();
      this.page.cursorAt(null);
      return;
    }
    const step = u.posToVal(left, "x");
    this.page.cursorAt(step);
    this.readout.replaceChildren(
      ...this.lines.flatMap((line) => {
        const i = nearest(line, step);
        const span = line.low && line.low[i] !== line.high[i] ? `${this.#value(line.low[i])} to ` : "";
        const place = h("span", { class: "key", style: `background:${line.colour}` });
        return [h("span", {}, place, `${line.label} ${span}${this.#value(line.high[i])}${line.note?.(i) ?? ""}`), h("br")];
      }),
      this.lines.length ? `at ${told(this.lines[0], nearest(this.lines[0], step))}` : "",
    );
  }

  #value(value) {
    return this.share ? `${(100 * value).toFixed(0)} %` : number(value);
  }

  /** Shows the page's range. */
  rescale() {
    if (!this.chart) return;
    const [min, max] = this.page.range();
    this.chart.setScale("x", { min, max });
  }

  resize() {
    const width = this.plot.clientWidth;
    if (this.chart && width > 0 && width !== this.chart.width) this.chart.setSize({ width, height: this.height });
  }

  redraw() {
    this.chart?.redraw(false);
  }

  retheme() {
    if (this.lines.length) this.#draw();
  }
}

/** The column that holds a step, or the nearest; `line` has the first step of each. */
export function nearest(line, step) {
  let [low, high] = [0, line.first.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (line.first[middle] <= step + 0.5) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** A mark of another shape for each severity. */
export function mark(ctx, x, y, severity, size) {
  ctx.setLineDash([]);
  ctx.beginPath();
  if (severity === "critical") {
    ctx.moveTo(x - size, y + size);
    ctx.lineTo(x + size, y + size);
    ctx.lineTo(x, y - size);
    ctx.closePath();
  } else if (severity === "warning") {
    ctx.moveTo(x, y - size);
    ctx.lineTo(x + size, y);
    ctx.lineTo(x, y + size);
    ctx.lineTo(x - size, y);
    ctx.closePath();
  } else {
    ctx.arc(x, y, size * 0.7, 0, 2 * Math.PI);
  }
  ctx.fill();
}

/** At most six places of a logarithmic axis, powers of ten if there are two of them. */
function decades(u, axis, low, high) {
  const [begin, end] = [Math.ceil(low - 1e-9), Math.floor(high + 1e-9)];
  const every = Math.ceil((end - begin + 1) / 6);
  const places = [];
  for (let power = begin; power <= end; power += every) places.push(power);
  if (places.length > 1) return places;
  const digits = high - low > 0.5 ? [1, 2, 5] : [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8];
  for (let power = begin - 1; power <= end; power++) for (const digit of digits) places.push(power + Math.log10(digit));
  return [...new Set(places)].filter((place) => place >= low && place <= high).sort((a, b) => a - b);
}

// uPlot's own logarithmic axes have no labels above 1e17, and norms explode further: its values are logarithms here.
export const LOGARITHMIC = { splits: decades, filter: (u, at) => at, incrs: [1000], values: (u, at) => at.map((power) => number(10 ** power)) };

function told(line, i) {
  const [first, last] = [line.first[i], line.last[i]];
  if (line.at && first !== last) return `${steps(first, last)}, largest at ${line.at[i].toLocaleString("en-US")}`;
  return steps(first, last);
}

function smallest(values) {
  let least = Infinity;
  for (const value of values) if (value > 0 && value < least) least = value;
  return Number.isFinite(least) ? least : 1;
}

function spoken(line) {
  let [low, high] = [Infinity, -Infinity];
  const least = line.low ?? line.high;
  for (let i = 0; i < line.high.length; i++) {
    if (line.high[i] > high) high = line.high[i];
    if (least[i] < low) low = least[i];
  }
  return Number.isFinite(high) ? `${line.label} from ${number(low)} to ${number(high)}` : `${line.label} not known`;
}
