// What is drawn as one picture: every canvas of the page at its place, with the texts that name it.

const TEXTS = "h2, h3, .verdict p, dt, dd:not(:has(li)), dd li, .legend span";
const LEFT_OUT = "[aria-label='Recommendation']";
const GAP = 4; // px from a swatch to its text
const FOOT = 8; // px below what is drawn

/**
 * @param {HTMLElement} main
 * @returns {Promise<Blob | null>} PNG
 */
export function pictureOf(main) {
  const unit = devicePixelRatio;
  const corner = main.getBoundingClientRect();
  const { color, backgroundColor } = getComputedStyle(/** @type {HTMLElement} */ (main.parentElement));
  const canvases = [...main.querySelectorAll("canvas")].filter(isShown);
  const bottoms = canvases.map((canvas) => canvas.getBoundingClientRect().bottom);
  const height = Math.max(0, ...bottoms) - corner.top + main.scrollTop + FOOT;
  const picture = document.createElement("canvas");
  picture.width = main.clientWidth * unit;
  picture.height = height * unit;
  const ctx = /** @type {CanvasRenderingContext2D} */ (picture.getContext("2d"));
  ctx.scale(unit, unit);
  ctx.fillStyle = backgroundColor;
  ctx.fillRect(0, 0, main.clientWidth, height);
  ctx.translate(-corner.left, main.scrollTop - corner.top);
  ctx.fillStyle = color;
  ctx.textBaseline = "top";
  const shown = (/** @type {string} */ what) =>
    [...main.querySelectorAll(what)].filter(isShown).map((element) => /** @type {HTMLElement} */ (element));
  for (const element of shown(TEXTS)) write(ctx, element);
  for (const element of shown(".ramp, .swatch")) paint(ctx, element);
  for (const canvas of canvases) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    ctx.drawImage(canvas, left, top, width, height);
  }
  return new Promise((done) => picture.toBlob(done, "image/png"));
}

/** @param {Element} element */
function isShown(element) {
  const { width, height } = element.getBoundingClientRect();
  return width > 0 && height > 0 && !element.closest(LEFT_OUT);
}

/**
 * Paints a field of the legend: one colour, or a ramp of colours from left to right.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {HTMLElement} element
 */
function paint(ctx, element) {
  const { left, top, width, height } = element.getBoundingClientRect();
  const { backgroundColor, backgroundImage } = getComputedStyle(element);
  const colours = backgroundImage.match(/rgba?\([^)]*\)/g) ?? [backgroundColor];
  const ramp = ctx.createLinearGradient(left, 0, left + width, 0);
  for (const [i, colour] of colours.entries()) ramp.addColorStop(i / Math.max(1, colours.length - 1), colour);
  ctx.save();
  ctx.fillStyle = ramp;
  ctx.fillRect(left, top, width, height);
  ctx.restore();
}

/**
 * Writes a text where it stands, squeezed into a line.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {HTMLElement} element
 */
function write(ctx, element) {
  const { left: begin, right, top } = element.getBoundingClientRect();
  const swatch = element.querySelector(".swatch"); // painted before the text
  const left = swatch ? swatch.getBoundingClientRect().right + GAP : begin;
  const { fontWeight, fontSize, fontFamily } = getComputedStyle(element);
  ctx.font = `${fontWeight} ${fontSize} ${fontFamily}`;
  ctx.fillText(element.textContent ?? "", left, top, right - left);
}
