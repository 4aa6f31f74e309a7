// Text in XML. Names may come from strangers.

const OTHERS = /[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu; // no XML may hold these
const ESCAPES = /** @type {Record<string, string>} */ ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" });

/**
 * A text as XML; what no XML can hold becomes a question mark in a rhombus.
 *
 * @param {string} text
 */
export function escaped(text) {
  return text.replaceAll(OTHERS, "\uFFFD").replaceAll(/[&<>"]/g, (letter) => ESCAPES[letter]);
}

/** Those that have a value. @param {Record<string, string | number | undefined>} given */
export function attributes(given) {
  return Object.entries(given)
    .flatMap(([name, value]) => (value === undefined ? [] : [` ${name}="${escaped(String(value))}"`]))
    .join("");
}
