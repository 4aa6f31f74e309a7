// The controls above the heat map.
/** @import { Layers } from "../types.d.ts" */
/** @import { Row } from "../state/rows.js" */
import { h } from "../draw/dom.js";
import { choices, statistic } from "../heat/statistics.js";
import { withNames } from "../inspector/values.js";
import { memo } from "../state/memo.js";
import { depths } from "../state/rows.js";

/** @typedef {{ stat: string, order: string, depth: number, filter: string, inspected: string[] }} Look */

export class LayerControls {
  #stat = h("select");
  #order = h("select", {}, option("model", "as in the model"), option("trouble", "trouble first"));
  #depth = h("select");
  #filter = h("input", { type: "search", placeholder: "regular expression", spellcheck: false });
  #row = h("select");
  #inspect = h("button", { type: "button", title: "all statistics of the layer, beside those of others" }, "inspect");
  /** @type {Row[]} */ #rows = [];
  /** The layers inspected after a click. @type {string[]} */ #next = [];

  /** @param {{ look(change: Partial<Look & { layer: string | null }>): void }} on */
  constructor({ look }) {
    this.#stat.onchange = () => look({ stat: this.#stat.value });
    this.#order.onchange = () => look({ order: this.#order.value });
    this.#depth.onchange = () => look({ depth: Number(this.#depth.value) });
    this.#filter.oninput = () => look({ filter: this.#filter.value });
    this.#inspect.onclick = () => look({ inspected: this.#next });
    this.#row.onchange = () => look({ layer: this.#rows[this.#row.selectedIndex - 1]?.name ?? null });
    this.element = h(
      "div",
      { class: "controls" },
      labelled("statistic", this.#stat),
      labelled("order", this.#order),
      labelled("group", this.#depth),
      labelled("filter", this.#filter),
      h("span", { class: "together" }, labelled("layer", this.#row), this.#inspect),
    );
  }

  /**
   * Whether a filter is a regular expression; the field says why not.
   *
   * @param {string} filter
   */
  valid(filter) {
    try {
      new RegExp(filter, "i");
      this.#filter.setCustomValidity("");
      return true;
    } catch (error) {
      this.#filter.setCustomValidity(/** @type {Error} */ (error).message);
      this.#filter.reportValidity();
      return false;
    }
  }

  /** @param {{ layers: Layers, stat: string, look: Look, rows: Row[], row: Row | null }} shown */
  show({ layers, stat, look, rows, row }) {
    this.#rows = rows;
    this.#offerLooks(layers);
    this.#offerRows(rows);
    this.#stat.value = stat;
    this.#order.value = look.order;
    this.#depth.value = String(look.depth);
    if (this.#filter.value !== look.filter) this.#filter.value = look.filter;
    const own = statistic(stat).ranks ? [] : (row?.members ?? []).map((i) => layers.layers[i].name);
    this.#next = withNames(look.inspected, own);
    this.#inspect.disabled = this.#next.length === look.inspected.length;
    this.#row.selectedIndex = row ? rows.indexOf(row) + 1 : 0;
  }

  #offerLooks = memo((/** @type {Layers} */ layers) => {
    this.#stat.replaceChildren(...choices(layers).map((name) => option(name, statistic(name).label)));
    this.#depth.replaceChildren(...depths(layers.layers).map((depth) => option(depth, depthText(depth))));
  });

  #offerRows = memo((/** @type {Row[]} */ rows) => {
    this.#row.replaceChildren(option("", "none chosen"), ...rows.map(({ name }) => option(name, name)));
  });
}

/** @param {string | number} value @param {string} text */
function option(value, text) {
  return h("option", { value }, text);
}

/** @param {number} depth */
function depthText(depth) {
  if (depth === 0) return "every parameter";
  return depth === 1 ? "modules" : `modules, ${depth} levels`;
}

/** @param {string} text @param {HTMLElement} control */
function labelled(text, control) {
  control.setAttribute("aria-label", text);
  return h("label", {}, text, " ", control);
}
