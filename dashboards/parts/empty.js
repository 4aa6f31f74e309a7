// What to do where no run was found.
import { h } from "../draw/dom.js";

const ATTACH = 'with gradwatch.attach(model, optimizer, "runs/first") as watch:\n    ...  # the training loop as it is';
const RUN = "gradwatch run --run runs/first train.py";

/**
 * @param {string[]} folders that were searched
 * @returns {HTMLElement[]}
 */
export function emptyPage(folders) {
  const code = (/** @type {string} */ text) => h("pre", { tabIndex: 0 }, h("code", {}, text));
  const where = folders.length ? folders.join(", ") : "a folder of this machine";
  return [
    h("h2", {}, "No gradwatch run here yet"),
    h("p", {}, `Found no gradwatch.db in ${where} or below. Record a run there, and reload:`),
    code(ATTACH),
    h("p", {}, "or, without touching a script:"),
    code(RUN),
  ];
}
