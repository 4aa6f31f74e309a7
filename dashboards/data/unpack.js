// Reads the binary format that gradwatch/views/web/pack.py writes.
/** @import { Matrix } from "../types.d.ts" */

const KINDS = { float64: Float64Array, float32: Float32Array, uint16: Uint16Array };

/**
 * Unpacks a header and its arrays. The arrays are views of the buffer; each has its `shape` as a property.
 *
 * @param {ArrayBuffer} buffer
 * @returns {{ about: any, arrays: Record<string, any> }}
 */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  /** @type {Record<string, any>} */
  const arrays = {};
  for (const [name, kind, shape, offset] of header.arrays) {
    const size = shape.reduce((/** @type {number} */ product, /** @type {number} */ side) => product * side, 1);
    const Kind = KINDS[/** @type {keyof typeof KINDS} */ (kind)];
    arrays[name] = Object.assign(new Kind(buffer, 4 + length + offset, size), { shape });
  }
  return { about: header.about, arrays };
}

/**
 * Unpacks data that a page carries deflated and in base64.
 *
 * @param {string} text
 */
export async function unpackEmbedded(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return unpack(await new Response(stream).arrayBuffer());
}

/**
 * The values of a tile that was stored as bfloat16, all high bytes first and layer by layer.
 *
 * @param {Uint16Array & { shape: [layers: number, columns: number] }} codes
 * @returns {Matrix} (columns, layers)
 */
export function widened(codes) {
  const [layers, columns] = codes.shape;
  const bytes = new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength);
  const size = layers * columns;
  const bits = new Uint32Array(size);
  for (let layer = 0; layer < layers; layer++)
    for (let column = 0; column < columns; column++) {
      const from = layer * columns + column;
      bits[column * layers + layer] = ((bytes[from] << 8) | bytes[size + from]) << 16;
    }
  /** @type {[number, number]} */
  const shape = [columns, layers];
  return Object.assign(new Float32Array(bits.buffer), { shape });
}
