// Where the parts of the page stand.
import { GUTTER } from "../chart/layout.js";
import { h } from "../draw/dom.js";

/** @typedef {{ element: HTMLElement }} Part */

/**
 * Puts the parts into the page.
 *
 * @param {Record<"events" | "verdict" | "findings" | "toolbar" | "story" | "lane" | "scatter" | "magnitudes" | "inspector" | "threshold", Part> & {
 *   runs: Part & { table: Part },
 *   charts: { all: Part[] },
 *   layers: Part & { chart: Part },
 * }} parts
 * @param {boolean} several
 */
export function layOut(
  { runs, events, verdict, findings, toolbar, story, lane, scatter, charts, layers, magnitudes, inspector, threshold },
  several,
) {
  const [first, ...others] = charts.all;
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const ruler = h("div"); // as wide as a chart, whatever is hidden
  const tracks = [
    h("div", { class: "track" }, h("div"), ruler),
    lane.element,
    first.element,
    scatter.element,
    layers.element, // so high up that it is in view below an open finding
    magnitudes.element,
    story.element,
    inspector.element,
    ...others.map(({ element }) => element),
    layers.chart.element,
    threshold.element,
  ];
  const main = h(
    "main",
    { tabIndex: -1 },
    runs.table.element,
    verdict.element,
    findings.element,
    problem,
    toolbar.element,
    ...tracks,
  );
  const empty = h("section", { class: "empty", hidden: true });
  runs.element.hidden = !several;
  const lists = [h("h2", { hidden: !several }, "Runs"), runs.element, events.element];
  const skip = h("button", { type: "button", class: "skip", onclick: () => main.focus() }, "skip to the run");
  const side = h("aside", { "aria-label": "Runs and events" }, skip, h("h1", {}, "GradWatch"), ...lists);
  return {
    body: h("div", { class: "gradwatch", style: `--gutter:${GUTTER}px` }, side, empty, main),
    main,
    empty,
    problem,
    ruler,
  };
}
