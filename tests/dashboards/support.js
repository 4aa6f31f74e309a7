// What several tests need: random numbers that repeat, and runs small enough to check by hand.
/** @import { Advice, Finding, Layers, Listing, Matrix, Overview, RunEvent, Series, Severity, Source, Tile } from "../../dashboards/types.d.ts" */

/**
 * Random numbers from 0 to 1, the same ones for the same seed (the generator "mulberry32").
 *
 * @param {number} seed
 */
export function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** @param {number} step @param {Partial<RunEvent>} [more] @returns {RunEvent} */
export function event(step, more = {}) {
  /** @type {Severity} */
  const severity = "warning";
  return { step, until: null, kind: "spike", severity, parameter: null, optimizer: "0", message: "", ...more };
}

/** @param {Partial<Finding>} [more] @returns {Finding} */
export function finding(more = {}) {
  return {
    code: "diverged",
    severity: "critical",
    certainty: "shown",
    what: "the loss rose and stayed",
    optimizer: "0",
    parameters: [],
    rank: null,
    steps: null,
    evidence: {},
    cause: "a cause",
    remedy: "a remedy",
    confirm: "a check",
    ...more,
  };
}

/** @param {Partial<Overview>} [more] @returns {Overview} */
export function overview(more = {}) {
  return {
    run: "run",
    verdict: "healthy",
    reason: "no warning in 100 steps",
    next: "nothing",
    model: "Net",
    optimizer: "0",
    optimizer_class: "SGD",
    optimizers: ["0"],
    learning_rate: 0.1,
    highest_learning_rate: 0.1,
    first_step: 0,
    last_step: 99,
    steps: 100,
    total_steps: null,
    running: false,
    ended: "closed",
    moment: "before clipping",
    total_norm: { median: 1, p99: 2, max: 3, max_step: 7 },
    clipping: { kind: null, policy: null, threshold: null, clipped_fraction: null, is_known: true },
    nonfinite_steps: 0,
    skipped_steps: 0,
    damaged_rows: 0,
    dropped_steps: 0,
    seams: [],
    findings: [],
    events: [],
    events_hidden: 0,
    dominant: [],
    ...more,
  };
}

const BANDS = ["total_norm", "left_norm", "max_norm", "clip_coef", "loss", "learning_rate"];

/**
 * Series with one column a step, all of whose values are NaN unless given.
 *
 * @param {number} size
 * @param {Record<string, ArrayLike<number>>} [more]
 * @returns {Series}
 */
export function series(size, more = {}) {
  const steps = Float64Array.from({ length: size }, (_, i) => i);
  const none = () => new Float64Array(size).fill(NaN);
  const bands = BANDS.flatMap((name) => [`${name}.low`, `${name}.high`].map((end) => [end, none()]));
  const zeros = ["nonfinite", "infinite", "loss.bad", "clipped"].map((name) => [name, new Float64Array(size)]);
  const given = Object.entries(more).map(([name, values]) => [name, Float64Array.from(values)]);
  return { first: steps, last: steps, "total_norm.at": steps, ...Object.fromEntries([...bands, ...zeros, ...given]) };
}

/**
 * A tile with one column a step.
 *
 * @param {string} stat
 * @param {number[][]} table (steps, layers)
 * @returns {Tile}
 */
export function tile(stat, table) {
  const steps = Float64Array.from(table, (_, i) => i);
  return { about: { stat, joined: 1 }, arrays: { first: steps, last: steps, values: matrix(table) } };
}

/**
 * The distribution of norms in one span, or in several.
 *
 * @param {...number[]} spans the norms of each; NaN is unknown
 * @returns {import("../../dashboards/types.d.ts").Distribution}
 */
export function distribution(...spans) {
  const norms = [...new Set(spans.flat().filter((norm) => norm > 0 && norm < Infinity))].sort((a, b) => a - b);
  const ends = spans.map((_, i) => spans.slice(0, i + 1).flat().length);
  const numbers = (/** @type {(span: number[], i: number) => number} */ of) => Float64Array.from(spans, of);
  return {
    about: { accuracy: 0.01 },
    arrays: {
      first: numbers((span, i) => ends[i] - span.length),
      last: numbers((_, i) => ends[i] - 1),
      unknown: numbers((span) => span.filter((norm) => !Number.isFinite(norm)).length),
      zeros: numbers((span) => span.filter((norm) => norm === 0).length),
      norms: Float64Array.from(norms),
      counts: matrix(spans.map((span) => norms.map((norm) => span.filter((one) => one === norm).length))),
    },
  };
}

/**
 * Every step of a run as a point, counted in one span.
 *
 * @param {Record<string, number[]>} given by quantity
 * @param {number} [every] of how many steps one is in the sample
 * @returns {import("../../dashboards/types.d.ts").Scatter}
 */
export function scatter(given, every = 1) {
  const quantities = Object.keys(given);
  const size = given[quantities[0]].length;
  const all = [...Array(size).keys()];
  const kept = all.filter((i) => i % every === 0);
  const sums = (/** @type {(value: number) => boolean} */ of) =>
    Float64Array.from(quantities, (name) => given[name].filter(of).length);
  const bad = (/** @type {string} */ name, /** @type {number} */ i) => !Number.isFinite(given[name][i]);
  return {
    about: { quantities },
    arrays: {
      step: Float64Array.from(kept),
      values: Float64Array.from(kept.flatMap((i) => quantities.map((name) => given[name][i]))),
      first: Float64Array.of(0),
      last: Float64Array.of(size - 1),
      steps: Float64Array.of(size),
      nan: sums(Number.isNaN),
      infinite: sums((value) => Math.abs(value) === Infinity),
      unknown: sums(() => false),
      left_out: Float64Array.from(
        quantities.flatMap((a) => quantities.map((b) => all.filter((i) => bad(a, i) || bad(b, i)).length)),
      ),
    },
  };
}

const EXPONENTS = [-126, ...Array.from({ length: 30 }, (_, i) => 2 * i - 42)];
export const BINS = ["below", ...EXPONENTS.map((exponent) => `2^${exponent}`), "zero", "inf", "nan"];

/** @param {number} log */
function binOf(log) {
  if (Number.isNaN(log)) return BINS.indexOf("nan");
  if (Math.abs(log) === Infinity) return BINS.indexOf(log > 0 ? "inf" : "zero");
  return EXPONENTS.filter((exponent) => exponent <= log).length;
}

/**
 * One layer's entries by magnitude at steps 0, 10, 20...
 *
 * @param {(number[] | null)[]} samples log2 of each entry, -Infinity for zero; null: no gradient
 * @param {{ layer?: number, scales?: number[] }} [more]
 * @returns {import("../../dashboards/types.d.ts").Magnitudes}
 */
export function magnitudes(samples, { layer = 0, scales = [] } = {}) {
  const counts = new Float32Array(samples.length * BINS.length);
  for (const [i, logs] of samples.entries()) {
    if (logs === null) counts.fill(NaN, i * BINS.length, (i + 1) * BINS.length);
    for (const log of logs ?? []) counts[i * BINS.length + binOf(log)]++;
  }
  /** @type {[number, number, number]} */
  const shape = [samples.length, 1, BINS.length];
  return {
    about: { bins: BINS, layers: [layer], counted: samples.length },
    arrays: {
      step: Float64Array.from(samples, (_, i) => 10 * i),
      loss_scale: Float64Array.from(samples, (_, i) => scales[i] ?? NaN),
      counts: Object.assign(counts, { shape }),
    },
  };
}

/** @param {number[][]} table @returns {Matrix} */
export function matrix(table) {
  /** @type {[number, number]} */
  const shape = [table.length, table[0]?.length ?? 0];
  return Object.assign(Float32Array.from(table.flat()), { shape });
}

/** @type {Advice} */
export const ADVICE = {
  max_norm: 1,
  low: 0.5,
  high: 2,
  clip: null,
  confidence: "high",
  refused: null,
  reasons: [],
  first: [],
  apply: {},
  curve: [],
};

/** @type {Layers} */
export const LAYERS = {
  layers: [
    { name: "encoder.0.weight", numel: 4, median: 2 },
    { name: "encoder.0.bias", numel: 2, median: null },
    { name: "head.weight", numel: 1, median: 1 },
  ],
  ranks: 0,
  telling: [2, 0, 1],
  stats: ["norm", "zeros"],
};

/**
 * A source that answers from memory and keeps a list of the questions.
 *
 * @param {Record<string, Partial<Overview>>} runs
 * @param {Partial<Source>} [more]
 */
export function memory(runs, more = {}) {
  /** @type {string[]} */
  const asked = [];
  /** @type {Listing} */
  const listing = {
    runs: Object.keys(runs).map((name) => ({ name, verdict: "healthy", error: null })),
    folders: ["/logs"],
  };
  /** @type {Source} */
  const source = {
    live: true,
    several: true,
    list: async () => listing,
    overview: async ({ run, optimizer = "0" }) => overview({ run, optimizer, ...runs[run] }),
    layers: async () => LAYERS,
    advice: async () => ADVICE,
    parting: async () => ({ step: 1, parameter: null, said: ["the runs first differ at step 1"], settings: [] }),
    series: async () => series(3),
    distribution: async () => distribution([1, 2, 3]),
    scatter: async () => scatter({ total_norm: [1, 2, 3], loss: [3, 2, 1] }),
    rows: async (_, layers) => ({ norm: tile("norm", [layers]) }),
    tile: async (_, stat) => tile(stat, [[1, 2, 3]]),
    magnitudes: async (_, layer) => magnitudes([[1, 2, 3]], { layer }),
    ...more,
  };
  const noted = Object.entries(source).map(([name, answer]) => {
    if (typeof answer !== "function") return [name, answer];
    return [
      name,
      (/** @type {any[]} */ ...given) => {
        asked.push([name, ...given.flatMap((one) => (typeof one === "object" ? Object.values(one) : one))].join(" "));
        return /** @type {any} */ (answer)(...given);
      },
    ];
  });
  return { source: /** @type {Source} */ (Object.fromEntries(noted)), asked };
}
