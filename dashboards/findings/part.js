// The findings below the verdict: the gravest one open, the others to unfold.
/** @import { Finding, Overview } from "../types.d.ts" */
import { h, prose } from "../draw/dom.js";
import { count, steps, whole } from "../draw/text.js";
import { evidenceOf, headline, namesOf, ownerText } from "./text.js";

const AT_FIRST = 5; // findings listed below the headline until the reader asks for more

/** @typedef {{ showFinding(finding: Finding, parameter?: string): void }} Actions */

export class FindingsPart {
  /** @type {Actions} */ #on;
  /** @type {Overview | null} */ #drawn = null;

  /** @param {Actions} on */
  constructor(on) {
    this.#on = on;
    this.element = h("section", { class: "findings", "aria-label": "Findings" });
  }

  /** Findings that stay the same are not drawn again: what is unfolded stays so. @param {Overview} overview */
  show(overview) {
    this.element.hidden = !overview.findings.length;
    const same = JSON.stringify(this.#drawn?.findings) === JSON.stringify(overview.findings);
    if (same && this.#drawn?.run === overview.run) return;
    this.#drawn = overview;
    const several = overview.optimizers.length > 1;
    const told = headline(overview.findings);
    const others = overview.findings.filter((finding) => finding !== told);
    const folded = others.map((finding) => this.#folded(finding, several));
    this.element.replaceChildren(
      ...(told ? [this.#body(told, several)] : []),
      ...folded.slice(0, AT_FIRST),
      ...moreOf(folded.slice(AT_FIRST)),
    );
  }

  /** @param {Finding} finding @param {boolean} several */
  #folded(finding, several) {
    const summary = h(
      "summary",
      {},
      h("strong", { class: finding.severity }, `${finding.severity} ${finding.code}`),
      " ",
      ...prose(finding.what),
    );
    return h("details", {}, summary, this.#body(finding, several));
  }

  /** @param {Finding} finding @param {boolean} several */
  #body(finding, several) {
    const { cause, certainty, remedy, confirm, code } = finding;
    const evidence = evidenceOf(finding).map(([name, value]) => h("li", {}, `${name}: ${value}`));
    /** @type {[string, (Node | string)[]][]} */
    const entries = [
      ["where", this.#where(finding, several)],
      [`cause (${certainty})`, prose(cause)],
      ["remedy", [h("strong", {}, ...prose(remedy))]],
      ["confirm", prose(confirm)],
      ["evidence", evidence.length ? [h("ul", {}, ...evidence)] : []],
      ["more", [h("code", {}, `gradwatch explain ${code}`)]],
    ];
    const told = entries.filter(([, text]) => text.length);
    return h("dl", { class: "finding" }, ...told.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, ...text)]));
  }

  /** Steps and parameters as buttons that lead there. @param {Finding} finding @param {boolean} several */
  #where(finding, several) {
    const { named, more } = namesOf(finding);
    const lead = (/** @type {string} */ text, /** @type {string | undefined} */ parameter) =>
      h("button", { type: "button", class: "plain", onclick: () => this.#on.showFinding(finding, parameter) }, text);
    const owner = ownerText(finding, several);
    return [
      ...(finding.steps ? [lead(steps(...finding.steps), undefined)] : []),
      ...named.map((name) => lead(name, name)),
      ...(more ? [`and ${whole(more)} more`] : []),
      ...(owner ? [owner] : []),
    ].flatMap((part) => [part, " "]);
  }
}

/** The findings that are too many to list at first. @param {HTMLElement[]} left */
function moreOf(left) {
  if (!left.length) return [];
  return [h("details", {}, h("summary", {}, count(left.length, "more finding")), ...left)];
}
