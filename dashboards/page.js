// The page: which runs, which steps, which layers; everything it shows it asks a source for.
import { Chart } from "./charts.js";
import { ink, runColour } from "./colours.js";
import { Events } from "./events.js";
import { GUTTER, HeatMap, choices, rowsOf, statistic, things } from "./heatmap.js";
import { Threshold } from "./threshold.js";
import { count, h, number, share, steps, whole } from "./text.js";

const LEAST_STEPS = 4; // shown at once
const SETTLED = 90; // ms without a move until finer columns are asked for
const MOST_RUNS = 6;

export class Page {
  constructor(root, source, theme) {
    Object.assign(this, { root, source, theme });
    this.shown = []; // names of runs, the focused one among them
    this.runs = new Map(); // what is known of each: overview, series
    this.optimizers = new Map();
    this.zoom = null; // [from, to]; null: all
    this.look = { stat: "norm", sort: "model", depth: 0, filter: "" };
    this.chosen = null;
    this.row = null;
    this.trial = null; // the threshold under the slider
    this.turn = 0;
    this.#build();
    this.setTheme(theme);
    new ResizeObserver(() => this.#resized()).observe(this.main);
  }

  // ------------------------------------------------------------------------------------- layout

  #build() {
    this.picker = h("ul", { class: "runs" });
    this.events = new Events(this);
    this.head = h("header", { class: "verdict" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.said = h("p", { class: "unseen", "aria-live": "polite" });
    this.span = h("span", { class: "span" });
    const button = (label, title, onclick) => h("button", { type: "button", "aria-label": title, title, onclick }, label);
    this.toolbar = h(
      "div",
      { class: "toolbar", role: "toolbar", "aria-label": "Steps shown" },
      button("◀", "earlier steps (left arrow)", () => this.#pan(-0.5)),
      button("▶", "later steps (right arrow)", () => this.#pan(0.5)),
      button("+", "fewer steps (+)", () => this.zoomBy(0.5)),
      button("−", "more steps (-)", () => this.zoomBy(2)),
      button("all", "the whole run (0)", () => this.resetZoom()),
      this.span,
      h("span", { class: "faint" }, "drag to zoom; on the layers drag to pan, Ctrl and wheel to zoom"),
    );
    this.charts = {
      norm: new Chart(this, { title: "total norm", hint: "before clipping, and what clipping left", height: 200, log: true }),
      loss: new Chart(this, { title: "loss", height: 120 }),
      rate: new Chart(this, { title: "learning rate", height: 84 }),
      share: new Chart(this, { title: "clipped_fraction", hint: "share of the steps clipped, over a hundredth of the steps shown", height: 84, share: true }),
      coef: new Chart(this, { title: "clip_coef", hint: "what the gradients were multiplied by", height: 96, log: true }),
      layer: new Chart(this, { title: "chosen layer", height: 130, log: true }),
    };
    this.heat = new HeatMap(this);
    this.controls = this.#layerControls();
    this.layers = h("section", { class: "layers", "aria-label": "Layers by steps" }, h("h2", {}, "Layers × steps"), this.controls, this.heat.element);
    this.threshold = new Threshold(this, (threshold) => this.#tryThreshold(threshold));
    const { layer, ...others } = this.charts;
    this.main = h(
      "main",
      { tabIndex: -1, onkeydown: (event) => this.#key(event) },
      this.head,
      this.problem,
      this.toolbar,
      ...Object.values(others).map((chart) => chart.element),
      this.layers,
      layer.element,
      this.threshold.element,
      this.said,
    );
    this.empty = h("section", { class: "empty", hidden: true });
    this.side = h("aside", { "aria-label": "Runs and events" }, h("h1", {}, "GradWatch"), h("h2", { hidden: !this.source.live }, "Runs"), this.picker, this.events.element);
    this.body = h("div", { class: "gradwatch", style: `--gutter:${GUTTER}px` }, this.side, this.empty, this.main);
    this.root.append(this.body);
  }

  #layerControls() {
    const changed = (name, value) => {
      this.look[name] = value;
      return name === "stat" ? this.#fetch() : this.#showLayers();
    };
    this.statChoice = h("select", { onchange: (event) => changed("stat", event.target.value) });
    this.rowChoice = h("select", { onchange: (event) => this.chooseRow(this.rows[event.target.selectedIndex - 1] ?? null) });
    const sort = h("select", { onchange: (event) => changed("sort", event.target.value) }, h("option", { value: "model" }, "as in the model"), h("option", { value: "trouble" }, "trouble first"));
    this.depthChoice = h("select", { onchange: (event) => changed("depth", Number(event.target.value)) });
    this.filter = h("input", { type: "search", placeholder: "regular expression", spellcheck: false, oninput: (event) => changed("filter", event.target.value) });
    const labelled = (text, control) => {
      control.setAttribute("aria-label", text);
      return h("label", {}, text, " ", control);
    };
    return h(
      "div",
      { class: "controls" },
      labelled("statistic", this.statChoice),
      labelled("order", sort),
      labelled("group", this.depthChoice),
      labelled("filter", this.filter),
      labelled("layer", this.rowChoice),
    );
  }

  setTheme(theme) {
    this.theme = theme;
    this.body.dataset.theme = theme;
    this.root.style.background = ink(theme).back;
    if (!this.focus) return;
    this.#showCharts();
    this.heat.draw();
    if (this.rows) this.#showLayers();
    this.threshold.redraw();
    this.#showPicker();
  }

  #resized() {
    for (const chart of Object.values(this.charts)) chart.resize();
    this.heat.draw();
  }

  // --------------------------------------------------------------------------------------- data

  /** Looks again at everything that is there. */
  async reload() {
    const turn = ++this.turn;
    try {
      this.listing = await this.source.list();
    } catch (error) {
      return this.#fail(error);
    }
    const names = this.listing.runs.map((run) => run.name);
    this.shown = this.shown.filter((name) => names.includes(name));
    if (!names.length) return this.#nothing();
    if (!this.shown.includes(this.focus)) this.focus = this.shown[0] ?? this.#first();
    if (!this.shown.length) this.shown = [this.focus];
    this.empty.hidden = true;
    this.main.hidden = false;
    this.#showPicker();
    await this.#load(turn);
  }

  /** The run written last that can be read. */
  #first() {
    return (this.listing.runs.find((run) => !run.error) ?? this.listing.runs[0]).name;
  }

  #query(name) {
    const optimizer = this.optimizers.get(name);
    return optimizer === undefined ? { run: name } : { run: name, optimizer };
  }

  async #load(turn = ++this.turn) {
    this.problem.hidden = true;
    try {
      const found = await Promise.all(this.shown.map((name) => this.#overview(name)));
      if (turn !== this.turn) return;
      this.shown.forEach((name, i) => this.runs.set(name, { ...this.runs.get(name), ...found[i] }));
      if (found[this.shown.indexOf(this.focus)].error) throw new Error(found[this.shown.indexOf(this.focus)].error);
      const { overview } = this.runs.get(this.focus);
      this.#showVerdict(overview);
      this.events.show(overview);
      const known = (event) => overview.events.find((one) => one.step === event.step && one.kind === event.kind && one.parameter === event.parameter);
      this.chosen = this.chosen && (known(this.chosen) ?? null);
      this.events.mark(this.chosen);
      await this.#fetch(turn, false);
      const layers = await this.source.layers(this.#query(this.focus));
      if (turn !== this.turn) return;
      this.parameters = layers;
      this.whole = {};
      this.#showChoices();
      await this.#fetch(turn);
      const advice = await this.source.advice(this.#query(this.focus));
      if (turn !== this.turn) return;
      this.threshold.element.hidden = false;
      this.threshold.show(advice);
    } catch (error) {
      if (turn === this.turn) this.#fail(error);
    }
  }

  async #overview(name) {
    try {
      return { overview: await this.source.overview(this.#query(name)), error: null };
    } catch (error) {
      return { error: error.message };
    }
  }

  /** Asks for what is shown now, at the width that it is shown in. */
  async #fetch(turn = ++this.turn, layers = true) {
    const [from, to] = this.range();
    const columns = Math.max(50, Math.min(2000, Math.round(this.heat.width)));
    const readable = this.shown.filter((name) => !this.runs.get(name)?.error);
    try {
      const series = await Promise.all(readable.map((name) => this.source.series(this.#query(name), from, to, columns)));
      if (turn !== this.turn) return;
      readable.forEach((name, i) => (this.runs.get(name).series = series[i]));
      this.#showCharts();
      if (layers && this.parameters) await this.#fetchTile(turn, from, to, columns);
    } catch (error) {
      if (turn === this.turn) this.#fail(error);
    }
  }

  async #fetchTile(turn, from, to, columns) {
    const stat = statistic(this.look.stat);
    const run = this.#query(this.focus);
    const [first, last] = this.#ends();
    this.whole[stat] ??= await this.source.tile(run, stat, first, last, columns);
    const tile = this.zoom ? await this.source.tile(run, stat, from, to, columns) : this.whole[stat];
    if (turn !== this.turn) return;
    this.tile = tile;
    this.#showLayers();
  }

  // -------------------------------------------------------------------------------------- steps

  #ends() {
    const known = this.shown.map((name) => this.runs.get(name)?.overview).filter(Boolean);
    if (!known.length) return [-0.5, 0.5];
    return [Math.min(...known.map((run) => run.first_step)) - 0.5, Math.max(...known.map((run) => run.last_step)) + 0.5];
  }

  range() {
    return this.zoom ?? this.#ends();
  }

  zoomTo(from, to) {
    const [first, last] = this.#ends();
    const wide = Math.min(last - first, Math.max(LEAST_STEPS, to - from));
    const middle = (from + to) / 2;
    const begin = Math.min(Math.max(first, middle - wide / 2), last - wide);
    this.zoom = wide >= last - first ? null : [begin, begin + wide];
    this.#moved();
  }

  zoomBy(factor, around = null) {
    const [from, to] = this.range();
    const middle = around ?? (from + to) / 2;
    this.zoomTo(middle - (middle - from) * factor, middle + (to - middle) * factor);
  }

  resetZoom() {
    this.zoom = null;
    this.#moved();
  }

  #pan(part) {
    const [from, to] = this.range();
    this.zoomTo(from + part * (to - from), to + part * (to - from));
  }

  /** Shows what is at hand at once, and asks for more when the moving is over. */
  #moved() {
    for (const chart of Object.values(this.charts)) chart.rescale();
    this.heat.draw();
    this.#showSpan();
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.#fetch(), SETTLED);
  }

  #key(event) {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: () => this.#pan(-0.25), ArrowRight: () => this.#pan(0.25), "+": () => this.zoomBy(0.5), "=": () => this.zoomBy(0.5), "-": () => this.zoomBy(2), 0: () => this.resetZoom() };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }

  cursorAt(step) {
    this.heat.cursorAt(step);
  }

  // ----------------------------------------------------------------------------- what is chosen

  marks() {
    const run = this.runs.get(this.focus);
    const series = run?.series;
    const bad = [];
    for (let i = 0; i < (series?.first.length ?? 0); i++)
      if (series.nonfinite[i] > 0) bad.push([series.first[i], series.last[i], series.infinite[i] > 0]);
    return { bad, events: run?.overview?.events ?? [], chosen: this.chosen };
  }

  /** Leads to an event: its steps, and the layer that it names. */
  choose(event) {
    this.chosen = event;
    this.events.mark(event);
    const last = event.until ?? event.step;
    const around = Math.max(40, 0.5 * (last - event.step));
    if (event.parameter && this.parameters) {
      const layer = this.parameters.layers.findIndex((one) => one.name === event.parameter);
      const holds = (row) => row.members.includes(layer);
      if (layer >= 0 && !this.rows?.some(holds)) {
        this.filter.value = this.look.filter = "";
        this.#showLayers();
      }
      this.#setRow(this.rows?.find(holds) ?? null);
    }
    this.zoomTo(event.step - around, last + around);
    this.said.textContent = `${event.severity} ${event.kind} at step ${event.step}. ${event.message}`;
    this.main.scrollTo?.({ top: 0 });
  }

  /** Leads to the event with the nearest mark, within 8 px; `distance` tells how far from the pointer a step is. */
  chooseNear(distance) {
    const near = this.marks().events.map((event) => [Math.abs(distance(event.step)), event]);
    const [least, event] = near.reduce((best, one) => (one[0] < best[0] ? one : best), [Infinity, null]);
    if (least <= 8) this.choose(event);
  }

  chooseRow(row) {
    this.#setRow(row);
    this.#showRow();
    this.heat.draw();
  }

  #setRow(row) {
    this.row = row?.name ?? null;
    this.rowChoice.selectedIndex = row ? this.rows.indexOf(row) + 1 : 0;
  }

  isChosen(row) {
    return Boolean(row) && row.name === this.row;
  }

  #tryThreshold(threshold) {
    this.trial = threshold;
    this.#showNorm();
  }

  // ---------------------------------------------------------------------------------- rendering

  #fail(error) {
    this.problem.hidden = false;
    this.problem.textContent = error.message;
    for (const chart of Object.values(this.charts)) chart.element.hidden = true;
    this.head.replaceChildren(h("h2", {}, this.focus ?? ""));
    this.layers.hidden = this.threshold.element.hidden = this.toolbar.hidden = true;
    this.events.show({ events: [], events_hidden: 0, optimizers: [] });
  }

  #nothing() {
    this.main.hidden = true;
    this.empty.hidden = false;
    this.#showPicker();
    this.events.show({ events: [], events_hidden: 0, optimizers: [] });
    const folders = this.listing.folders.length ? this.listing.folders.join(", ") : "a folder of this machine";
    this.empty.replaceChildren(
      h("h2", {}, "No run of gradwatch's here yet"),
      h("p", {}, `Looked for gradwatch.db in ${folders} and below. Record one there, and reload:`),
      h("pre", { tabIndex: 0 }, h("code", {}, 'with gradwatch.attach(model, optimizer, "runs/first") as watch:\n    ...  # the training loop as it is')),
      h("p", {}, "or, without touching a script:"),
      h("pre", { tabIndex: 0 }, h("code", {}, "gradwatch run --run runs/first train.py")),
    );
  }

  /** Entries stay while their runs do, so that what has the focus keeps it. */
  #showPicker() {
    const runs = this.listing?.runs ?? [];
    this.picker.hidden = !this.source.live;
    this.entries = new Map(runs.map((run) => [run.name, this.entries?.get(run.name) ?? this.#entry(run.name)]));
    const elements = runs.map((run) => this.entries.get(run.name).element);
    if (elements.some((element, i) => element !== this.picker.children[i]) || elements.length !== this.picker.children.length)
      this.picker.replaceChildren(...elements);
    for (const run of runs) this.#update(this.entries.get(run.name), run);
  }

  #entry(name) {
    const tick = h("input", { type: "checkbox", "aria-label": `draw ${name}`, onchange: () => this.#toggle(name) });
    const key = h("span", { class: "key" });
    const state = h("span");
    const button = h("button", { type: "button", class: "run", onclick: () => this.#focusOn(name) }, name, state);
    return { element: h("li", {}, tick, key, button), tick, key, state, button };
  }

  #update({ tick, key, state, button }, run) {
    const slot = this.shown.indexOf(run.name);
    tick.checked = slot >= 0;
    key.style.background = slot >= 0 ? runColour(slot, this.theme) : "transparent";
    state.textContent = run.error ? "can't be read" : run.running ? `${run.verdict}, recording` : run.verdict;
    state.className = `state ${run.verdict ?? "critical"}`;
    button.title = run.error ?? run.name;
    if (run.name === this.focus) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }

  #toggle(name) {
    if (this.shown.includes(name)) {
      if (this.shown.length === 1) return this.#showPicker();
      this.shown = this.shown.filter((one) => one !== name);
      if (this.focus === name) this.focus = this.shown[0];
    } else {
      this.shown = [...this.shown.slice(0, MOST_RUNS - 1), name];
      if (!this.shown.includes(this.focus)) this.focus = name;
    }
    this.#changed();
  }

  #focusOn(name) {
    if (!this.shown.includes(name)) this.shown = [name];
    this.focus = name;
    this.#changed();
  }

  #changed() {
    Object.assign(this, { zoom: null, chosen: null, row: null, trial: null, rows: null, tile: null, parameters: null });
    this.#showPicker();
    this.#load();
  }

  #showVerdict(run) {
    this.toolbar.hidden = false;
    const facts = [
      run.model,
      `${run.optimizer_class || "optimizer"} lr ${number(run.learning_rate)}`,
      `${steps(run.first_step, run.last_step)}${run.total_steps === null ? "" : ` of ${whole(run.total_steps)}`}, ${whole(run.steps)} recorded`,
      run.running ? "recording, or ended without a word" : `ended: ${run.ended}`,
      `total norm: median ${number(run.total_norm.median)}, p99 ${number(run.total_norm.p99)}, max ${number(run.total_norm.max)} at step ${run.total_norm.max_step === null ? "–" : whole(run.total_norm.max_step)}`,
      run.clipping.kind === null ? "not clipped" : this.#clipping(run.clipping),
      run.nonfinite_steps ? `NaN or infinite at ${count(run.nonfinite_steps, "step")}` : "",
      run.skipped_steps ? `${count(run.skipped_steps, "step")} skipped` : "",
      run.damaged_rows ? `${count(run.damaged_rows, "row")} of the store damaged and left out` : "",
      run.dropped_steps ? `${count(run.dropped_steps, "step")} dropped` : "",
      ...run.seams,
    ];
    this.head.replaceChildren(
      h("h2", { class: run.verdict }, h("span", { class: "badge" }, run.verdict), ` ${run.reason}`),
      h("p", { class: "faint" }, facts.filter(Boolean).join(" · ")),
      h("p", {}, h("strong", {}, "next: "), run.next),
      this.listing.note ? h("p", { class: "faint" }, this.listing.note) : "",
      run.optimizers.length > 1 && this.source.live ? this.#optimizerChoice(run) : "",
    );
  }

  #clipping(clipping) {
    const policy = clipping.policy ? ` by ${clipping.policy}` : "";
    const threshold = clipping.threshold === null ? "" : ` at ${number(clipping.threshold)}`;
    return `clipped${policy}${threshold}: clipped_fraction ${share(clipping.clipped_fraction)}`;
  }

  #optimizerChoice(run) {
    const select = h(
      "select",
      { onchange: (event) => (this.optimizers.set(this.focus, event.target.value), this.#changed()) },
      run.optimizers.map((name) => h("option", { value: name, selected: name === run.optimizer }, name)),
    );
    return h("label", {}, "optimizer ", select);
  }

  #showSpan() {
    const [from, to] = this.range();
    const series = this.runs.get(this.focus)?.series;
    const joined = series?.first.length > 2 ? series.last[1] - series.first[1] + 1 : 1;
    const columns = joined > 1 ? `; a column is ${whole(joined)} steps, drawn from the least to the largest` : "";
    this.span.textContent = `${steps(Math.max(0, Math.ceil(from)), Math.floor(to))}${columns}`;
  }

  #lines(make) {
    return this.shown.flatMap((name, slot) => {
      const series = this.runs.get(name)?.series;
      return series ? make(series, runColour(slot, this.theme), this.shown.length > 1 ? `${name}: ` : "", name === this.focus) : [];
    });
  }

  #showCharts() {
    performance.mark("gradwatch: lines drawn");
    this.#showSpan();
    this.#showNorm();
    const band = (name, label) => (s, colour, run) => [{ label: `${run}${label}`, colour, first: s.first, last: s.last, high: s[`${name}.high`], low: s[`${name}.low`] }];
    const some = (name) => (s, ...rest) => (s[`${name}.high`].some(Number.isFinite) ? band(name, name)(s, ...rest) : []);
    this.charts.loss.log = this.#lossSpans();
    this.charts.loss.show(this.#lines(some("loss")));
    this.charts.rate.show(this.#lines(some("learning_rate")));
    const clips = (s) => s.clipped.some((value) => value > 0) || s["max_norm.high"].some(Number.isFinite);
    this.charts.share.show(this.#lines((s, colour, run) => (clips(s) ? [{ label: `${run}clipped_fraction`, colour, first: s.first, last: s.last, high: s.clipped }] : [])));
    this.charts.coef.show(this.#lines((s, ...rest) => (clips(s) ? band("clip_coef", "clip_coef")(s, ...rest) : [])));
    this.#showRow();
  }

  /** Whether all losses are positive and lie decades apart, which a linear axis would hide. */
  #lossSpans() {
    let [low, high] = [Infinity, 0];
    for (const name of this.shown) {
      const series = this.runs.get(name)?.series;
      for (const value of series?.["loss.low"] ?? []) if (value < low) low = value;
      for (const value of series?.["loss.high"] ?? []) if (value > high) high = value;
    }
    return low > 0 && high / low > 1000;
  }

  #showNorm() {
    const colours = ink(this.theme);
    const lines = this.#lines((s, colour, run, focused) => {
      const { first, last } = s;
      const note = (i) => (s.nonfinite[i] > 0 ? `, not finite at ${count(s.nonfinite[i], "step")}${s.infinite[i] > 0 ? ` (infinite at ${s.infinite[i]})` : ""}` : "");
      const total = { label: `${run}total_norm`, colour, first, last, high: s["total_norm.high"], low: s["total_norm.low"], at: s["total_norm.at"], note };
      if (!focused || !s.clipped.some((value) => value > 0)) return [total];
      const left = { label: `${run}left by clipping`, colour: colours.line, first, last, high: s["left_norm.high"], low: s["left_norm.low"] };
      return [left, total];
    });
    const { series } = this.runs.get(this.focus);
    const { first, last } = series;
    if (series["max_norm.high"].some(Number.isFinite)) lines.push({ label: "max_norm", colour: colours.text, first, last, high: series["max_norm.high"], dash: [6, 4] });
    if (this.trial !== null) lines.push({ label: "threshold tried", colour: colours.warning, first, last, high: Float64Array.from(first, () => this.trial), dash: [2, 3], width: 2 });
    this.charts.norm.show(lines);
  }

  #showChoices() {
    const { layers, stats } = this.parameters;
    this.layers.hidden = !layers.length || !stats.length;
    const offered = choices(stats);
    if (!offered.some(([name]) => name === this.look.stat) && offered.length) this.look.stat = offered[0][0];
    this.statChoice.replaceChildren(...offered.map(([value, label]) => h("option", { value, selected: value === this.look.stat }, label)));
    const deepest = Math.max(1, ...layers.map((layer) => layer.name.split(".").length));
    const depths = [...Array(Math.min(6, deepest)).keys()];
    this.depthChoice.replaceChildren(...depths.map((depth) => h("option", { value: depth, selected: depth === this.look.depth }, depth === 0 ? "every parameter" : depth === 1 ? "modules" : `modules, ${depth} levels`)));
  }

  #showLayers() {
    if (!this.tile || !this.parameters) return;
    const { layers, telling } = things(this.look.stat, this.parameters);
    try {
      this.rows = rowsOf(layers, telling, this.look);
      this.filter.setCustomValidity("");
    } catch (error) {
      this.filter.setCustomValidity(error.message); // half a regular expression; the rows stay
      this.filter.reportValidity();
      return;
    }
    this.rowChoice.replaceChildren(h("option", {}, "none chosen"), ...this.rows.map((row) => h("option", { selected: this.isChosen(row) }, row.name)));
    this.heat.show({ stat: this.look.stat, tile: this.tile, whole: this.whole[statistic(this.look.stat)], rows: this.rows, layers });
    this.#showRow();
  }

  /** The chosen layer as a line. */
  #showRow() {
    const row = this.rows?.find((one) => one.name === this.row);
    const chart = this.charts.layer;
    if (!row || !this.tile) return chart.show([]);
    const line = this.heat.line(row);
    chart.element.querySelector("h3").textContent = row.name;
    chart.title = `${this.heat.title} of ${row.name}`;
    chart.log = this.look.stat !== "zeros";
    const lines = [{ ...line, label: this.look.stat, colour: runColour(this.shown.indexOf(this.focus), this.theme) }];
    const layer = this.parameters.layers[row.members[0]];
    if (this.look.stat === "norm" && row.members.length === 1 && layer.median)
      lines.push({ ...line, high: Float64Array.from(line.first, () => layer.median), label: "its median", colour: ink(this.theme).line, dash: [4, 4] });
    return chart.show(lines);
  }
}
