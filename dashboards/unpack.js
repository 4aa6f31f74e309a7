// Reads what gradwatch/views/web/pack.py writes.

const KINDS = { float64: Float64Array, float32: Float32Array, uint16: Uint16Array };

/** The header's "about" and the arrays by name, each with its shape. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const [name, kind, shape, offset] of header.arrays) {
    const size = shape.reduce((product, side) => product * side, 1);
    arrays[name] = new KINDS[kind](buffer, 4 + length + offset, size);
    arrays[name].shape = shape;
  }
  return { about: header.about, arrays };
}

/** Inflates and unpacks what a page carries in base64. */
export async function unpackEmbedded(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return unpack(await new Response(stream).arrayBuffer());
}

/** The values of a tile that was halved (bfloat16), laid out in planes, parameter by parameter. */
export function widened(codes) {
  const [parameters, columns] = codes.shape;
  const bytes = new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength);
  const size = parameters * columns;
  const bits = new Uint32Array(size);
  for (let p = 0; p < parameters; p++)
    for (let c = 0; c < columns; c++) {
      const from = p * columns + c;
      bits[c * parameters + p] = ((bytes[from] << 8) | bytes[size + from]) << 16;
    }
  const values = new Float32Array(bits.buffer);
  values.shape = [columns, parameters];
  return values;
}
