// What the reader can do, as changes of the state.
/** @import { Finding, Range, RunEvent, State } from "./types.d.ts" */
/** @import { Session } from "./session.js" */
import { nearestEvent, neighbour } from "./state/events.js";
import { withEvent, withFinding } from "./state/lead.js";
import { panned, within, zoomed } from "./state/range.js";
import { focused, toggled, withOptimizer } from "./state/state.js";

const REACH = 8; // px from an event's mark

/** @typedef {"stat" | "order" | "depth" | "filter" | "layer" | "inspected" | "against" | "trial" | "pin" | "wholeAxis" | "tables"} LookOfCharts */
/** @typedef {"plot" | "tint" | "brush"} LookOfPlot */
/** @typedef {"find" | "kind" | "table" | "sort"} LookOfRuns */
/** @typedef {Partial<Pick<State, LookOfCharts | LookOfPlot | LookOfRuns>>} Look */
/** @typedef {ReturnType<typeof actionsOf>} Actions */

/**
 * The actions on a session. Parts get those that they need.
 *
 * @param {Session} session
 * @param {(state: State) => void} [remember] is given the state after each action
 */
export function actionsOf(session, remember = () => {}) {
  /** @param {State} state */
  const become = (state) => {
    remember(state);
    return session.become(state);
  };
  /** @param {Range | null} zoom */
  const move = (zoom) => {
    session.move(zoom);
    remember(session.state);
  };
  /** @param {number} from @param {number} to */
  const zoomTo = (from, to) => move(within(from, to, session.whole));
  /** @param {RunEvent} event */
  const chooseEvent = (event) => {
    if (session.overview) lead(withEvent(session.state, event, session.overview));
  };
  /** @param {State} next with steps that may reach beyond the run's */
  const lead = (next) => become({ ...next, zoom: next.zoom && within(...next.zoom, session.whole) });
  return {
    zoomTo,
    chooseEvent,
    showFinding: (/** @type {Finding} */ finding, /** @type {string=} */ parameter) => {
      if (session.overview) lead(withFinding(session.state, finding, parameter ?? null, session.overview));
    },
    closeEvent: () => become({ ...session.state, event: null }),
    nextEvent: (/** @type {number} */ by) => {
      const event = neighbour(session.overview?.events ?? [], session.event, by);
      if (event) chooseEvent(event);
    },
    showAll: () => {
      if (Object.keys(session.state.values).length) become({ ...session.state, zoom: null, values: {} });
      else move(null);
    },
    zoomValues: (/** @type {string} */ chart, /** @type {Range} */ values) =>
      become({ ...session.state, values: { ...session.state.values, [chart]: values } }),
    pan: (/** @type {number} */ part) => zoomTo(...panned(session.range, part)),
    zoomBy: (/** @type {number} */ factor, /** @type {number=} */ around) =>
      zoomTo(...zoomed(session.range, factor, around)),
    toggleRun: (/** @type {string} */ name) => become(toggled(session.state, name)),
    focusRun: (/** @type {string} */ name) => become(focused(session.state, name)),
    chooseOptimizer: (/** @type {string} */ name) => become(withOptimizer(session.state, name)),
    look: (/** @type {Look} */ change) => become({ ...session.state, ...change }),
    chooseNear: (/** @type {(step: number) => number} */ distance) => {
      const event = nearestEvent(session.overview?.events ?? [], distance, REACH);
      if (event) chooseEvent(event);
    },
  };
}
