// Decodes image files with the pinned decoders of the folder npm/, never with the browser's own,
// whose color management differs.

import {ImageError, readHeader} from "./headers.js";

const DECODERS = {
  JPEG: "../npm/@jsquash/jpeg/decode.js",
  PNG: "../npm/@jsquash/png/decode.js",
  WEBP: "../npm/@jsquash/webp/decode.js",
};

/** Decode a file; return {height, width, data, format}, upright RGB without alpha. */
export async function decode(bytes, maxPixels) {
  const header = await readHeader(bytes);
  if (header.width * header.height > maxPixels) {
    const megapixels = Math.round(header.width * header.height / 1e6);
    throw new ImageError("too_many_pixels", {megapixels, limit: Math.round(maxPixels / 1e6)});
  }
  const {default: decoder} = await import(DECODERS[header.format]);
  let pixels;
  try {
    pixels = await decoder(without(bytes, header.ignored ?? []).buffer);
  } catch {
    throw new ImageError("damaged");
  }
  if (pixels.width !== header.width || pixels.height !== header.height) {
    throw new ImageError("damaged");
  }
  return {...turned(withoutAlpha(pixels), header.orientation), format: header.format};
}

// Return a copy of bytes without some parts.
function without(bytes, parts) {
  const kept = [...parts, [bytes.length]].map(
    ([start], i) => bytes.subarray(i ? parts[i - 1][1] : 0, start));
  const result = new Uint8Array(kept.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const each of kept) {
    result.set(each, at);
    at += each.length;
  }
  return result;
}

function withoutAlpha({width, height, data}) {
  const result = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < result.length; from += 4, to += 3) {
    result[to] = data[from];
    result[to + 1] = data[from + 1];
    result[to + 2] = data[from + 2];
  }
  return {width, height, data: result};
}

/** Return an image turned upright as its orientation from 1 to 8 says. */
export function turned(image, orientation) {
  if (orientation === 1) return image;
  const {width: w, height: h} = image;
  const swapped = orientation >= 5;
  const [width, height] = swapped ? [h, w] : [w, h];
  const fromRight = [2, 3, 7, 8].includes(orientation);
  const fromBottom = [3, 4, 6, 7].includes(orientation);
  const data = new Uint8Array(image.data.length);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const [row, column] = swapped ? [x, y] : [y, x];
      const from = 3 * ((fromBottom ? h - 1 - row : row) * w + (fromRight ? w - 1 - column : column));
      data[to] = image.data[from];
      data[to + 1] = image.data[from + 1];
      data[to + 2] = image.data[from + 2];
    }
  }
  return {height, width, data};
}
