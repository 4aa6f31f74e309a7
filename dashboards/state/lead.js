// Where an event or a finding leads: its optimizer, its steps and its layer.
/** @import { Finding, Overview, RunEvent, State } from "../types.d.ts" */
import { eventKey } from "./events.js";
import { rangeAround, surrounded } from "./range.js";
import { passes } from "./rows.js";
import { withOptimizer } from "./state.js";

/**
 * Chooses an event: its optimizer, its steps, and its layer, even if the filter hides it.
 *
 * @param {State} state
 * @param {RunEvent} event
 * @param {Overview} overview that of the run in the focus
 * @returns {State}
 */
export function withEvent(state, event, overview) {
  const { optimizer, parameter } = event;
  return { ...led(state, optimizer, parameter, overview), event: eventKey(event), zoom: rangeAround(event) };
}

/**
 * Shows where a finding is: its optimizer, its steps, and one of its parameters, even if the filter hides it.
 *
 * @param {State} state
 * @param {Finding} finding
 * @param {string | null} parameter
 * @param {Overview} overview that of the run in the focus
 * @returns {State}
 */
export function withFinding(state, { optimizer, steps }, parameter, overview) {
  const next = led(state, optimizer ?? overview.optimizer, parameter, overview);
  return { ...next, zoom: steps ? surrounded(...steps) : state.zoom };
}

/**
 * @param {State} state
 * @param {string} optimizer
 * @param {string | null} parameter
 * @param {Overview} overview
 * @returns {State}
 */
function led(state, optimizer, parameter, overview) {
  const own = optimizer === overview.optimizer;
  const known = own || overview.optimizers.includes(optimizer);
  const next = own || !known ? state : withOptimizer(state, optimizer);
  const layer = known ? parameter : null;
  const filter = layer !== null && !passes(state.filter, layer) ? "" : state.filter;
  return { ...next, layer: layer ?? state.layer, filter };
}
