// Saves what is in view as a file.
/** @import { Session } from "../session.js" */
import { offered } from "../heat/statistics.js";
import { layersCsv, pointsCsv, seriesCsv } from "./csv.js";
import { pictureOf } from "./picture.js";
import { vectorOf } from "./svg.js";

/** @type {Record<string, { label: string, ends: string, type: string }>} */
export const KINDS = {
  series: { label: "lines as CSV", ends: "csv", type: "text/csv;charset=utf-8" },
  layers: { label: "layers as CSV", ends: "csv", type: "text/csv;charset=utf-8" },
  points: { label: "scatter as CSV", ends: "csv", type: "text/csv;charset=utf-8" },
  picture: { label: "picture (PNG)", ends: "png", type: "image/png" },
  vector: { label: "picture (SVG)", ends: "svg", type: "image/svg+xml" },
};

/**
 * @param {string} kind a key of `KINDS`
 * @param {Session} session
 * @param {HTMLElement} root the page
 */
export async function save(kind, session, root) {
  const { ends, type } = KINDS[kind];
  const name = `gradwatch-${(session.state.focus ?? "run").replaceAll(/[^\w.-]+/g, "-")}-${kind}.${ends}`;
  const main = root.querySelector("main");
  const content = main && (await contentOf(kind, session, main));
  if (content !== null) download(new Blob([content], { type }), name);
}

/** @param {string} kind @param {Session} session @param {HTMLElement} main */
function contentOf(kind, session, main) {
  if (kind === "picture") return pictureOf(main);
  return kind === "vector" ? vectorOf(main) : tableOf(kind, session);
}

/** @param {string} kind @param {Session} session @returns {string | null} null before the data has arrived */
function tableOf(kind, { state, data, range }) {
  if (kind === "series") return seriesCsv(data.series, range);
  if (kind === "points") return pointsCsv(data.scatter, range);
  const { layers, tile } = data;
  const stat = layers && offered(state.stat, layers);
  return layers && tile && stat ? layersCsv({ tile, stat, layers, state, range }) : null;
}

/** @param {Blob} content @param {string} name */
function download(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
