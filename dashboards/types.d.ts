// The shapes of what the page is given, and of what its parts hand to one another. Types only: no browser reads this file.

export type Theme = "light" | "dark";
export type Severity = "info" | "warning" | "critical";
export type Verdict = "healthy" | "warning" | "critical";

/** The first and the last step shown, half a step before and after them included. */
export type Range = [from: number, to: number];

/** JSON has no NaN and no infinity: they arrive as the strings "NaN", "Infinity" and "-Infinity". */
export type JsonNumber = number | string | null;

// ---------------------------------------------------------------------------------- answers of a source

/** An entry of the list of runs. */
export interface ListedRun {
  name: string;
  verdict: Verdict | null;
  /** Whether the verdict is still being computed, or computed again. */
  pending?: boolean;
  running?: boolean;
  error: string | null;
  /** Of the optimizer with the gravest finding; null before the first step. */
  numbers?: RunNumbers | null;
  /** The defaults that this optimizer was made with. */
  settings?: Record<string, unknown>;
}

export interface RunNumbers {
  /** The code of the gravest finding. */
  fault: string | null;
  fault_step: number | null;
  /** The most relevant layer of that finding. */
  fault_layer: string | null;
  steps: number;
  learning_rate: JsonNumber;
  threshold: JsonNumber;
  clipped_fraction: JsonNumber;
  median_norm: JsonNumber;
  max_norm: JsonNumber;
  nonfinite_steps: number;
  last_loss: JsonNumber;
}

export interface Listing {
  runs: ListedRun[];
  /** The folders that were searched. */
  folders: string[];
  /** What a file holds of its run. */
  note?: string;
}

/** What a detector found (gradwatch.record.Event). */
export interface RunEvent {
  step: number;
  until: number | null;
  kind: string;
  severity: Severity;
  parameter: string | null;
  optimizer: string;
  message: string;
  attempt?: number;
  /** The later attempt that made the step again, whose values the charts show. */
  made_again_by?: number;
  observed?: JsonNumber;
  limit?: JsonNumber;
  /** What the replay of the captured step found. */
  replay?: { step: number; answers: [label: string, text: string][] };
}

/** What is wrong with the training (gradwatch.analysis.diagnosis.Finding). */
export interface Finding {
  code: string;
  severity: Severity;
  certainty: "shown" | "likely" | "possible";
  what: string;
  /** Null: the whole run. */
  optimizer: string | null;
  parameters: string[];
  rank: number | null;
  steps: [first: number, last: number] | null;
  evidence: Record<string, { value: number | string | null; unit: string }>;
  cause: string;
  remedy: string;
  confirm: string;
}

export interface Clipping {
  kind: string | null;
  policy: string | null;
  threshold: JsonNumber;
  clipped_fraction: JsonNumber;
  is_known: boolean;
}

/** `gradwatch report --json` of one optimizer, without its layers. */
export interface Overview {
  run: string;
  verdict: Verdict;
  reason: string;
  next: string;
  model: string | null;
  optimizer: string;
  optimizer_class: string | null;
  optimizers: string[];
  learning_rate: JsonNumber;
  highest_learning_rate: JsonNumber;
  first_step: number;
  last_step: number;
  steps: number;
  total_steps: number | null;
  running: boolean;
  ended: string | null;
  /** When norms were taken; "not logged" where a history has none. */
  moment: string;
  total_norm: { median: JsonNumber; p99: JsonNumber; max: JsonNumber; max_step: number | null };
  clipping: Clipping;
  nonfinite_steps: number;
  skipped_steps: number;
  damaged_rows: number;
  dropped_steps: number;
  seams: string[];
  /** Of the whole run, the gravest first. */
  findings: Finding[];
  events: RunEvent[];
  /** How many milder events were left out. */
  events_hidden: number;
  /** Steps from one reading of all updates to the next; null or absent where they were not read twice. */
  updates_every?: number | null;
  /** Parts of the model that own most of the squared norm. */
  dominant: { by: "parameter" | "kind" | "depth"; name: string; share: JsonNumber; entries: JsonNumber }[];
}

export interface Layer {
  name: string;
  /** Entries. */
  numel: number;
  median: number | null;
}

export interface Layers {
  layers: Layer[];
  /** Processes that recorded statistics of their own. */
  ranks: number;
  /** Indices of layers, the one that tells most of a fault first. */
  telling: number[];
  stats: string[];
  /** Whether another run is drawn that it can be compared with. */
  other?: boolean;
  /** Whether entries of gradients were counted by magnitude. */
  magnitudes?: boolean;
  /** The tiles of the updates of a few layers at every step, where those of all are read at some steps only. */
  sentinels?: string[];
  /** As in `Overview`. */
  updates_every?: number | null;
  /** Largest relative error of the medians; null or absent: they are exact. */
  quantile_error?: number | null;
}

/** A typed array of two dimensions, row by row. */
export type Matrix = Float32Array & { shape: [rows: number, columns: number] };

/**
 * Columns of joined steps: `first` and `last` of each, and by name the lowest (`.low`) and the highest (`.high`) finite
 * value in it (gradwatch.views.web.series).
 */
export type Series = Record<string, Float64Array>;

/** One statistic of every layer: values are (columns, layers); of the sentinels' those at `positions`. */
export interface Tile {
  about: { stat: string; joined: number; positions?: number[] };
  arrays: { first: Float64Array; last: Float64Array; values: Matrix };
}

/** By statistic, the values of a few layers: (columns, these layers). */
export type Rows = Record<string, Tile>;

/** How many steps of each span have which total norm (gradwatch.analysis.statistics.distribution). */
export interface Distribution {
  about: { accuracy: number };
  arrays: Record<"first" | "last" | "unknown" | "zeros" | "norms", Float64Array> & { counts: Matrix };
}

/** Steps with several quantities each, and what can't be drawn of each span (gradwatch.analysis.statistics.scatter). */
export interface Scatter {
  about: { quantities: string[] };
  arrays: Record<"step" | "values" | "first" | "last" | "steps", Float64Array> &
    Record<"nan" | "infinite" | "unknown" | "left_out", Float64Array>;
}

/** The entries of one layer's gradient by magnitude, at some steps (gradwatch.analysis.statistics.magnitudes). */
export interface Magnitudes {
  about: { bins: string[]; layers: number[]; counted: number };
  arrays: {
    step: Float64Array;
    loss_scale: Float64Array;
    counts: Float32Array & { shape: [samples: number, layers: number, bins: number] };
  };
}

/** A rectangle in the values of a scatter plot. */
export type Brush = [left: number, right: number, low: number, high: number];

/** Where a run and another first differ (gradwatch.analysis.differences). */
export interface Parting {
  /** Null: nowhere, or nothing can be compared. */
  step: number | null;
  parameter: string | null;
  said: string[];
  /** Those in which the runs' configs differ, in words. */
  settings: string[];
}

/** Another run of the same training, to compare with. */
export interface Other {
  name: string;
  layers: Layers;
  parting: Parting;
}

/** What one threshold would have done. */
export interface WhatIf {
  threshold: number;
  clipped_fraction: number;
  mean_clip_coef: number;
  worst_clip_coef: number;
  label: string | null;
}

/** `gradwatch recommend --json` with the curve over all thresholds. */
export interface Advice {
  max_norm: number | null;
  low: number | null;
  high: number | null;
  clip: string | null;
  confidence: string;
  refused: string | null;
  reasons: string[];
  first: string[];
  apply: Record<string, string>;
  curve: WhatIf[];
}

/** Names one optimizer of a run; the first one if `optimizer` is left out. */
export interface Query {
  run: string;
  optimizer?: string;
}

/** Where the page gets its runs from: a server, or the file it is in. */
export interface Source {
  /** Whether there can be more steps later, and finer ones of a part. */
  live: boolean;
  /** Whether there can be several runs. */
  several: boolean;
  list(): Promise<Listing>;
  overview(query: Query): Promise<Overview>;
  layers(query: Query): Promise<Layers>;
  advice(query: Query): Promise<Advice>;
  parting(query: Query, other: string): Promise<Parting>;
  series(query: Query, from: number, to: number, columns: number): Promise<Series>;
  /** In at most as many spans of steps as columns. */
  distribution(query: Query, from: number, to: number, columns: number): Promise<Distribution>;
  /** At most `points` of the steps; a file may give more steps than asked for. */
  scatter(query: Query, from: number, to: number, points: number): Promise<Scatter>;
  /** Every statistic of some layers, given as positions in `Layers.layers`. */
  rows(query: Query, layers: number[], from: number, to: number, columns: number): Promise<Rows>;
  tile(query: Query, stat: string, from: number, to: number, columns: number): Promise<Tile>;
  /** The entries of one layer's gradient, at `samples` of the steps at most. */
  magnitudes(query: Query, layer: number, from: number, to: number, samples: number): Promise<Magnitudes>;
}

/** Where the state is kept across reloads. */
export interface Address {
  read(): string;
  write(text: string): void;
  /** The whole address, to share. */
  href(): string;
  /** Calls back when the reader changes the address. */
  whenChanged(changed: (text: string) => void): void;
}

/** What the reader has chosen to see. */
export interface State {
  /** The runs drawn, each in the place that gives it its colour; null is a free place. */
  slots: (string | null)[];
  /** The run whose events, layers and advice are shown. */
  focus: string | null;
  /** The optimizer shown of each run; its first one if not named. */
  optimizers: Record<string, string>;
  /** Null: all steps. */
  zoom: Range | null;
  /** The statistic of the layers. */
  stat: string;
  /** "model" or "trouble". */
  order: string;
  /** How many parts of a layer's name make a group; 0: every layer has a row. */
  depth: number;
  /** A regular expression for names of layers. */
  filter: string;
  /** A row, or a layer within a row. */
  layer: string | null;
  /** The run that the one in the focus is compared with; the first other one drawn if null. */
  against: string | null;
  /** The layers shown with all statistics, by name. */
  inspected: string[];
  /** The key of the chosen event. */
  event: string | null;
  /** A threshold to try. */
  trial: number | null;
  /** A step whose depth profile is shown while the pointer is elsewhere. */
  pin: number | null;
  /** Whether the y axes reach to the highest value, however high. */
  wholeAxis: boolean;
  /** The ends of the y axes that the reader chose, by chart. */
  values: Record<string, Range>;
  /** The two quantities of the scatter plot, "x y"; empty while it is closed. */
  plot: string;
  /** What the colours of its points tell: "step" or "run". */
  tint: string;
  /** What is selected there. */
  brush: Brush | null;
  /** A regular expression for names of runs. */
  find: string;
  /** The kind of runs listed: a key of `KINDS` in state/found.js. */
  kind: string;
  /** Whether the runs are shown as a table. */
  table: boolean;
  /** Whether tables stand below the charts and the heat map. */
  tables: boolean;
  /** The column that the table is sorted by, with a minus before it from the largest on; empty: the newest first. */
  sort: string;
}

// ---------------------------------------------------------------------------- what parts hand to one another

/** A line of a chart, over columns of joined steps. */
export interface Line {
  label: string;
  colour: string;
  first: Float64Array;
  last: Float64Array;
  /** The highest value of each column; NaN where none is known. */
  high: Float64Array;
  /** The lowest value of each column: the line becomes a band. */
  low?: Float64Array;
  /** The step of the highest value of each column. */
  at?: Float64Array;
  dash?: number[];
  width?: number;
  /** At how many steps of each column the value was NaN or infinite. */
  bad?: Float64Array;
  /** At how many it was infinite. */
  infinite?: Float64Array;
  /** A line to compare with, like a threshold: it does not decide where the axis ends. */
  reference?: boolean;
  /** It is drawn below the line after it, and told after that. */
  under?: boolean;
}

/** Steps at which something was NaN or infinite. */
export interface BadSpan {
  first: number;
  last: number;
  infinite: boolean;
}

/** What the parts of the page report; each is a wish, and the page decides. */
export interface StepActions {
  /** Show these steps. */
  zoomTo(from: number, to: number): void;
  /** Show these values on the y axis of a chart. */
  zoomValues(chart: string, values: Range): void;
  zoomBy(factor: number, around?: number): void;
  pan(part: number): void;
  showAll(): void;
  /** The pointer is at a step, or at none. */
  point(step: number | null): void;
  /** A click at a place; `distance` tells how many pixels away a step is. */
  chooseNear(distance: (step: number) => number): void;
}
