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

const CALM = 200; // ms; browsers refuse to change an address hundreds of times a minute

/**
 * An address that takes the first of a series of texts at once, so that a reload right after a click leads back to it.
 * Of the others, as of a drag, it takes the last one when the series has ended or the address is asked for.
 *
 * @param {Address} address
 * @returns {Address}
 */
export function calm(address) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {string | null} */
  let waiting = null;
  const flush = () => {
    if (waiting !== null) address.write(waiting);
    waiting = null;
  };
  const end = () => {
    timer = undefined;
    flush();
  };
  return {
    ...address,
    write: (text) => {
      waiting = text;
      if (timer === undefined) flush();
      clearTimeout(timer);
      timer = setTimeout(end, CALM);
    },
    href: () => {
      flush();
      return address.href();
    },
  };
}
