// The verdict on a run, its reason, and the facts beside it.
/** @import { Clipping, Overview } from "../types.d.ts" */
import { h, prose } from "../draw/dom.js";
import { count, number, share, steps, whole } from "../draw/text.js";
import { headline } from "../findings/text.js";

/** @typedef {{ overview: Overview, note: string | undefined }} Shown */

export class VerdictPart {
  /** @type {(optimizer: string) => void} */ #chooseOptimizer;
  /** @type {Overview | null} */ #drawn = null;

  /** @param {{ chooseOptimizer(optimizer: string): void }} on */
  constructor(on) {
    this.#chooseOptimizer = on.chooseOptimizer;
    this.element = h("header", { class: "verdict" });
  }

  /** @param {Shown} shown */
  show({ overview, note }) {
    if (overview === this.#drawn) return;
    this.#drawn = overview;
    this.element.replaceChildren(
      h(
        "h2",
        { class: overview.verdict },
        h("span", { class: "badge" }, overview.verdict),
        " ",
        ...prose(overview.reason),
      ),
      h("p", { class: "faint" }, factsOf(overview).join(" · ")),
      headline(overview.findings) ? "" : h("p", {}, h("strong", {}, "next: "), ...prose(overview.next)),
      note ? h("p", { class: "faint" }, note) : "",
      overview.optimizers.length > 1 ? this.#optimizers(overview) : "",
    );
  }

  /**
   * Shows the name of a run that can't be read.
   *
   * @param {string} name
   */
  showName(name) {
    this.#drawn = null;
    this.element.replaceChildren(h("h2", {}, name));
  }

  /** @param {Overview} overview */
  #optimizers({ optimizers, optimizer }) {
    const select = h(
      "select",
      { onchange: () => this.#chooseOptimizer(select.value) },
      optimizers.map((name) => h("option", { value: name, selected: name === optimizer }, name)),
    );
    return h("label", {}, "optimizer ", select);
  }
}

/**
 * What is known of a run, in short phrases.
 *
 * @param {Overview} run
 */
export function factsOf(run) {
  const norm = run.total_norm;
  const at = norm.max_step === null ? "–" : whole(norm.max_step);
  const planned = run.total_steps === null ? "" : ` of ${whole(run.total_steps)}`;
  const facts = [
    run.model,
    `${run.optimizer_class || "optimizer"} lr ${rateOf(run)}`,
    `${steps(run.first_step, run.last_step)}${planned}, ${whole(run.steps)} recorded`,
    endOf(run),
    run.moment === "not logged"
      ? "total norm: not known"
      : `total norm: median ${number(norm.median)}, p99 ${number(norm.p99)}, max ${number(norm.max)} at step ${at}`,
    clippingText(run.clipping),
    ...run.dominant.map(ownerText),
    run.nonfinite_steps && `NaN or infinite at ${count(run.nonfinite_steps, "step")}`,
    run.skipped_steps && `${count(run.skipped_steps, "step")} skipped`,
    run.damaged_rows && `${count(run.damaged_rows, "damaged row")} of the store left out`,
    run.dropped_steps && `${count(run.dropped_steps, "step")} dropped`,
    ...run.seams,
  ];
  return facts.filter(Boolean);
}

/** The last learning rate, and the highest where a schedule has lowered it. @param {Overview} run */
function rateOf({ learning_rate: last, highest_learning_rate: highest }) {
  const told = number(last);
  return highest === null || number(highest) === told ? told : `${told} (highest ${number(highest)})`;
}

/** How a run ended: only one whose process is alive is still running. @param {Overview} run */
function endOf({ running, ended }) {
  if (running) return "still running";
  if (ended === null) return "its process is gone";
  if (ended === "exit" || ended === "closed") return "finished";
  return ended === "exception KeyboardInterrupt" ? "interrupted (Ctrl-C)" : `ended: ${ended}`;
}

const OF_GROUPING = { parameter: "", kind: "all layers of kind ", depth: "the layer " };

/** @param {Overview["dominant"][number]} owner */
function ownerText({ by, name, share: part, entries }) {
  return `${OF_GROUPING[by]}${name}: ${share(part)} of the squared norm, ${share(entries)} of the entries`;
}

/** @param {Clipping} clipping */
function clippingText({ kind, policy, threshold, clipped_fraction: clipped, is_known: known }) {
  if (kind === null) return known ? "not clipped" : "not known whether it was clipped";
  const by = policy ? ` by ${policy}` : "";
  const at = threshold === null ? "" : ` at ${number(threshold)}`;
  return `clipped${by}${at}: clipped_fraction ${share(clipped)}`;
}
