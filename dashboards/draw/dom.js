// Elements.

/**
 * Makes an element. Text stays text, whatever it holds, so that no name from a store becomes markup.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [properties] `on...` adds a listener; nothing is set for null, undefined and false
 * @param {...(Node | string | null | undefined | (Node | string | null | undefined)[])} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties))
    if (value !== undefined && value !== null && value !== false) set(element, name, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** @param {any} element @param {string} name @param {any} value */
function set(element, name, value) {
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "class") element.className = value;
  else if (name === "style") element.style.cssText = value;
  else if (name in element && name !== "list" && name !== "role") element[name] = value;
  else element.setAttribute(name, value === true ? "" : value);
}

/**
 * A text in which commands and names stand between backticks, with these as code.
 *
 * @param {string} text
 * @returns {(Node | string)[]}
 */
export function prose(text) {
  return text.split(/`([^`]+)`/).map((part, at) => (at % 2 ? h("code", {}, part) : part));
}

/**
 * Sets `aria-current` on one element of a list.
 *
 * @param {Element} element
 * @param {boolean} current
 */
export function markCurrent(element, current) {
  if (current) element.setAttribute("aria-current", "true");
  else element.removeAttribute("aria-current");
}
