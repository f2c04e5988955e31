// Overlapping tiles of a large image and their joined map, as tfdetect/light/numpy_tiles.py.

import {cut, rint} from "./resample.js";

const OVERLAP = 4;  // TILE_OVERLAP of tfdetect/core/data_settings.py
const CHUNK = 4;  // tiles that are predicted at a time
const TOP_PIXELS = 200;  // as in tfdetect/core/data_settings.py
const EPSILON = 1e-7;  // of a probability, before its logit
export const SMALLEST = 1e-37;  // as in tfdetect/core/probability.py

/** Return where tiles begin along a side, evenly spaced. */
export function tileStarts(length, side) {
  const slack = length - side;
  const count = 1 + Math.ceil(slack / (side - Math.floor(side / OVERLAP)));
  return Array.from({length: count}, (_, i) =>
    count === 1 ? 0 : rint(Math.fround(i === count - 1 ? slack : i * (slack / (count - 1)))));
}

/**
 * Return class probabilities of an image from those of its tiles and P(altered) of its pixels,
 * Float32Array: by "max" those of the tile that looks most like a fake; by "top_pixels" P(fake)
 * has the mean logit of the highest half percent of the pixels.
 */
export function poolTiles(tables, altered, pooling) {
  const table = tables.reduce((best, each) => (each[0] < best[0] ? each : best));
  if (pooling === "max") return table;
  const count = Math.max(1, Math.floor(altered.length / TOP_PIXELS));
  const top = altered.slice().sort().subarray(altered.length - count);
  const logits = top.map((p) => {
    const inside = Math.min(Math.max(p, Math.fround(EPSILON)), Math.fround(1 - EPSILON));
    return Math.log(inside) - Math.log1p(-inside);
  });
  const logit = logits.reduce((sum, each) => sum + each, 0) / count;
  const fakes = table.slice(1).map((each) => Math.max(each, SMALLEST));
  const sum = fakes.reduce((total, each) => total + each, 0);
  const fake = 1 / (1 + Math.exp(-logit));
  return [1 / (1 + Math.exp(logit)), ...Array.from(fakes, (each) => each / sum * fake)];
}

// Return for each tile the weight of each of its positions along a side; those of neighbors add
// up to 1.
function weightsAlong(starts, side) {
  const fade = Math.max(1, Math.floor(side / OVERLAP));
  const weights = starts.map(() => new Float32Array(side).fill(1));
  for (let i = 1; i < starts.length; i++) {
    const begin = Math.floor((starts[i] + starts[i - 1] + side - fade) / 2);
    for (let at = starts[i]; at < starts[i] + side; at++) {
      const rising = Math.min(Math.max(Math.fround((at - begin + 0.5) / fade), 0), 1);
      weights[i][at - starts[i]] *= rising;
      const before = at - starts[i - 1];
      if (before < side) weights[i - 1][before] *= 1 - rising;
    }
  }
  return weights;
}

/**
 * Predict an image by tiles; return the map of its pixels, Float32Array.
 * predict takes an array of tiles and returns a promise of one Float32Array for each;
 * onProgress is given the fraction that is done.
 */
export async function byTiles(image, size, policy, predict, onProgress) {
  const missing = [Math.max(size[0] - image.height, 0), Math.max(size[1] - image.width, 0)];
  const corner = missing.map((each) => (policy === "window_pad" ? Math.floor(each / 2) : 0));
  const shape = [image.height + missing[0], image.width + missing[1]];
  const starts = shape.map((length, axis) => tileStarts(length, size[axis]));
  const weights = starts.map((each, axis) => weightsAlong(each, size[axis]));
  const corners = starts[0].flatMap((_, row) => starts[1].map((_, column) => [row, column]));
  const map = new Float32Array(image.height * image.width);
  for (let begin = 0; begin < corners.length; begin += CHUNK) {
    const chunk = corners.slice(begin, begin + CHUNK);
    const tiles = chunk.map(([row, column]) => cut(
      image, starts[0][row] - corner[0], starts[1][column] - corner[1], ...size, policy));
    const predicted = await predict(tiles);
    chunk.forEach(([row, column], index) => {
      const top = starts[0][row] - corner[0];
      const left = starts[1][column] - corner[1];
      for (let y = Math.max(0, -top); y < size[0] && y + top < image.height; y++) {
        const down = weights[0][row][y];
        if (down === 0) continue;
        for (let x = Math.max(0, -left); x < size[1] && x + left < image.width; x++) {
          map[(y + top) * image.width + x + left] +=
            down * weights[1][column][x] * predicted[index][y * size[1] + x];
        }
      }
    });
    onProgress(Math.min(begin + CHUNK, corners.length) / corners.length);
  }
  return map;
}
