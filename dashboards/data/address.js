// Where the page keeps its state: the fragment of its own address, or of TensorBoard's around it.
/** @import { Address } from "../types.d.ts" */

/**
 * The fragment of a window's address.
 *
 * @param {Window} window
 * @param {string} [prefix] what stands before the state
 * @returns {Address}
 */
export function addressOf(window, prefix = "") {
  const read = () => {
    const fragment = window.location.hash.slice(1);
    return fragment.startsWith(prefix) ? fragment.slice(prefix.length) : "";
  };
  return {
    read,
    write: (text) => window.history.replaceState(window.history.state, "", `#${prefix}${text}`),
    href: () => window.location.href,
    whenChanged: (changed) =>
      window.addEventListener("hashchange", () => {
        if (window.location.hash.startsWith(`#${prefix}`)) changed(read());
      }),
  };
}

/**
 * An address that keeps nothing, where the frame belongs to a page of another origin.
 *
 * @returns {Address}
 */
export function noAddress() {
  return { read: () => "", write: () => {}, href: () => window.location.href, whenChanged: () => {} };
}
