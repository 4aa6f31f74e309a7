// What a picture of the page holds: its canvases, each at its place, with the texts and colours that name what they show.

const TEXTS = "h2, h3, .verdict p, dt, dd:not(:has(li)), dd li, :is(.legend, .shades) span:not(.swatch)";
const LEFT_OUT = "[aria-label='Recommendation']";
const GAP = 4; // px from a swatch to its text
const FOOT = 8; // px below what is drawn

/**
 * @typedef {object} Items places are in CSS pixels from the upper left corner of the picture
 * @property {number} width
 * @property {number} height
 * @property {string} background
 * @property {string} colour of the texts
 * @property {{ text: string, font: string, left: number, top: number, room: number }[]} texts
 * @property {{ left: number, top: number, width: number, height: number, colours: string[] }[]} fields of legends, from
 *   left to right
 * @property {{ canvas: HTMLCanvasElement, left: number, top: number, width: number, height: number }[]} canvases
 */

/** @param {HTMLElement} main @returns {Items} */
export function itemsIn(main) {
  const corner = main.getBoundingClientRect();
  const { color, backgroundColor } = getComputedStyle(/** @type {HTMLElement} */ (main.parentElement));
  /** @param {Element} element */
  const boxOf = (element) => {
    const { left, top, width, height } = element.getBoundingClientRect();
    return { left: left - corner.left, top: top - corner.top + main.scrollTop, width, height };
  };
  const shown = (/** @type {string} */ what) => [...main.querySelectorAll(what)].filter(isShown);
  const canvases = shown("canvas").map((canvas) => ({
    canvas: /** @type {HTMLCanvasElement} */ (canvas),
    ...boxOf(canvas),
  }));
  return {
    width: main.clientWidth,
    height: Math.ceil(Math.max(0, ...canvases.map(({ top, height }) => top + height)) + FOOT),
    background: backgroundColor,
    colour: color,
    texts: shown(TEXTS).map((element) => textOf(element, boxOf)),
    fields: shown(".ramp, .swatch").map((element) => ({ ...boxOf(element), colours: coloursOf(element) })),
    canvases,
  };
}

/** What is folded away has a place, too. @param {Element} element */
function isShown(element) {
  const { width, height } = element.getBoundingClientRect();
  return width > 0 && height > 0 && element.checkVisibility() && !element.closest(LEFT_OUT);
}

/**
 * A text where it stands, in one line.
 *
 * @param {Element} element
 * @param {(element: Element) => { left: number, top: number, width: number }} boxOf
 */
function textOf(element, boxOf) {
  const { left: begin, top, width } = boxOf(element);
  const swatch = element.querySelector(".swatch"); // drawn before the text
  const box = swatch && boxOf(swatch);
  const left = box ? box.left + box.width + GAP : begin;
  const { fontWeight, fontSize, fontFamily } = getComputedStyle(element);
  const font = `${fontWeight} ${fontSize} ${fontFamily}`;
  return { text: element.textContent ?? "", font, left, top, room: begin + width - left };
}

/** One colour, or those of a ramp. @param {Element} element */
function coloursOf(element) {
  const { backgroundColor, backgroundImage } = getComputedStyle(element);
  return backgroundImage.match(/rgba?\([^)]*\)/g) ?? [backgroundColor];
}

/**
 * Fill the picture with its background, and write its texts.
 *
 * @param {Pick<CanvasRenderingContext2D, "fillRect" | "fillText"> & { fillStyle: any, font: string, textBaseline: any }} ctx
 * @param {Pick<Items, "width" | "height" | "background" | "colour" | "texts">} items
 */
export function drawTexts(ctx, { width, height, background, colour, texts }) {
  ctx.fillStyle = background;
  ctx.fillRect(0, 0, width, height);
  ctx.fillStyle = colour;
  ctx.textBaseline = "top";
  for (const { text, font, left, top, room } of texts) {
    ctx.font = font;
    ctx.fillText(text, left, top, room);
  }
}
