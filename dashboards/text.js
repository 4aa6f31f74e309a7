// Elements and numbers as text.

/** An element with properties and children; text stays text, whatever it holds. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") element.style.cssText = value;
    else if (name in element && name !== "list" && name !== "role") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** At most three digits: 0.0123, 123, 1.2e28. JSON's "NaN" and "Infinity" are shown as they are. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const size = Math.abs(value);
  if (value === 0 || (size >= 1e-3 && size < 9999.5)) return String(size >= 100 ? Math.round(value) : +value.toPrecision(3));
  return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
}

export function share(value) {
  if (value === null || value === undefined) return "–";
  const percent = 100 * value;
  return `${percent > 0 && percent < 0.1 ? percent.toFixed(2) : +percent.toFixed(1)} %`;
}

/** Thousands apart, for steps. */
export function whole(value) {
  return Math.round(value).toLocaleString("en-US");
}

export function count(amount, thing) {
  return `${whole(amount)} ${thing}${amount === 1 ? "" : "s"}`;
}

/** One step or a span of steps. */
export function steps(first, last) {
  return first === last ? `step ${whole(first)}` : `steps ${whole(first)} to ${whole(last)}`;
}

/** A name cut in its middle. */
export function fit(name, length) {
  if (name.length <= length) return name;
  const left = Math.floor((length - 1) / 2);
  return `${name.slice(0, left)}…${name.slice(name.length - (length - 1 - left))}`;
}
