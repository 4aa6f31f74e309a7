// What the reader can do, as changes of the state.
/** @import { RunEvent } from "./types.d.ts" */
/** @import { Session } from "./session.js" */
/** @import { State } from "./state/state.js" */
import { nearestEvent } from "./state/events.js";
import { panned, within, zoomed } from "./state/range.js";
import { focused, toggled, withEvent, withOptimizer } from "./state/state.js";

const REACH = 8; // px from an event's mark

/** @typedef {Partial<Pick<State, "stat" | "order" | "depth" | "filter" | "layer" | "trial">>} Look */
/** @typedef {ReturnType<typeof actionsOf>} Actions */

/**
 * The actions on a session. Parts get those that they need.
 *
 * @param {Session} session
 */
export function actionsOf(session) {
  /** @param {number} from @param {number} to */
  const zoomTo = (from, to) => session.move(within(from, to, session.whole));
  /** @param {RunEvent} event */
  const chooseEvent = (event) => {
    if (!session.overview) return;
    const next = withEvent(session.state, event, session.overview);
    session.become({ ...next, zoom: next.zoom && within(...next.zoom, session.whole) });
  };
  return {
    zoomTo,
    chooseEvent,
    showAll: () => session.move(null),
    pan: (/** @type {number} */ part) => zoomTo(...panned(session.range, part)),
    zoomBy: (/** @type {number} */ factor, /** @type {number=} */ around) =>
      zoomTo(...zoomed(session.range, factor, around)),
    toggleRun: (/** @type {string} */ name) => session.become(toggled(session.state, name)),
    focusRun: (/** @type {string} */ name) => session.become(focused(session.state, name)),
    chooseOptimizer: (/** @type {string} */ name) => session.become(withOptimizer(session.state, name)),
    look: (/** @type {Look} */ change) => session.become({ ...session.state, ...change }),
    chooseNear: (/** @type {(step: number) => number} */ distance) => {
      const event = nearestEvent(session.overview?.events ?? [], distance, REACH);
      if (event) chooseEvent(event);
    },
  };
}
