// Saves what is in view as a file.
/** @import { Session } from "../session.js" */
import { offered } from "../heat/statistics.js";
import { layersCsv, seriesCsv } from "./csv.js";
import { pictureOf } from "./picture.js";

/** @type {Record<string, string>} */
export const KINDS = { series: "lines as CSV", layers: "layers as CSV", picture: "picture (PNG)" };

/**
 * @param {string} kind a key of `KINDS`
 * @param {Session} session
 * @param {HTMLElement} root the page
 */
export async function save(kind, session, root) {
  const name = `gradwatch-${(session.state.focus ?? "run").replaceAll(/[^\w.-]+/g, "-")}-${kind}`;
  const main = root.querySelector("main");
  const content = kind === "picture" ? main && (await pictureOf(main)) : tableOf(kind, session);
  if (content === null) return;
  if (content instanceof Blob) download(content, `${name}.png`);
  else download(new Blob([content], { type: "text/csv;charset=utf-8" }), `${name}.csv`);
}

/** @param {string} kind @param {Session} session @returns {string | null} null before the data has arrived */
function tableOf(kind, { state, data, range }) {
  if (kind === "series") return seriesCsv(data.series, range);
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
