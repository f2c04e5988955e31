// Resizing, windows and re-encoding of one image, value by value as tfdetect/light/resample.py.
// An image is {height, width, data}: data is a Uint8Array of height * width * 3 values, RGB.

import {encodeAndDecode} from "./jpeg.js";

// As in tfdetect/core/data_settings.py.
const RESIZING_BIAS = Math.fround(0.00137);
const EQUALIZE_GRID = 8;  // pixels; the side of JPEG's blocks

/** Return whether a policy takes windows of an image at its own resolution. */
export function cutsWindows(policy) {
  return policy.startsWith("window_");
}

/** Return an image resized by a policy: stretch, crop, pad, window_tile or window_pad. */
export function resize(image, size, policy) {
  if (cutsWindows(policy)) return window(image, size, policy, [0.5, 0.5]);
  if (image.height === size[0] && image.width === size[1]) return image;
  const [height, width] = scaledSize([image.height, image.width], size, policy);
  let pixels = resampled(image, height, width);
  let shape = [height, width];
  if (policy !== "stretch") {
    pixels = cropOrPad(pixels, shape, size, 3);
    shape = size;
  }
  const data = new Uint8Array(pixels.length);
  for (let i = 0; i < data.length; i++) {
    const pixel = Math.fround(pixels[i] + RESIZING_BIAS);
    data[i] = Math.min(Math.max(rint(pixel), 0), 255);
  }
  return {height: shape[0], width: shape[1], data};
}

/** Round to the nearest integer, halves to the even one. */
export function rint(value) {
  const low = Math.floor(value);
  const rest = value - low;
  if (rest === 0.5) return low % 2 === 0 ? low : low + 1;
  return rest < 0.5 ? low : low + 1;
}

// Positions and weights of Pillow's antialiased bilinear filter along one side.
function taps(before, after) {
  const scale = before / after;
  const support = Math.max(scale, 1);
  const found = [];
  for (let i = 0; i < after; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), before);
    const weights = new Float64Array(end - first);
    let sum = 0;
    for (let j = 0; j < weights.length; j++) {
      const distance = Math.abs((j + first - center + 0.5) * (1 / support));
      weights[j] = distance < 1 ? 1 - distance : 0;
      sum += weights[j];
    }
    if (sum !== 0) for (let j = 0; j < weights.length; j++) weights[j] /= sum;
    found.push([first, weights]);
  }
  return found;
}

// Return Float32Array [height, width, 3]: across first, then down, rounded to float32 after each.
function resampled(image, height, width) {
  let current = image.data;
  if (width !== image.width) {
    const wide = new Float32Array(image.height * width * 3);
    taps(image.width, width).forEach(([first, weights], x) => {
      for (let y = 0; y < image.height; y++) {
        for (let c = 0; c < 3; c++) {
          let sum = 0;
          let from = (y * image.width + first) * 3 + c;
          for (let j = 0; j < weights.length; j++, from += 3) sum += current[from] * weights[j];
          wide[(y * width + x) * 3 + c] = sum;
        }
      }
    });
    current = wide;
  }
  if (height === image.height) return Float32Array.from(current);
  const row = width * 3;
  const result = new Float32Array(height * row);
  taps(image.height, height).forEach(([first, weights], y) => {
    for (let x = 0; x < row; x++) {
      let sum = 0;
      let from = first * row + x;
      for (let j = 0; j < weights.length; j++, from += row) sum += current[from] * weights[j];
      result[y * row + x] = sum;
    }
  });
  return result;
}

/** Return the [height, width] to which an image is scaled before it is cut or padded. */
export function scaledSize(current, size, policy) {
  if (policy === "stretch") return size;
  const ratios = size.map((wanted, axis) => Math.fround(wanted / current[axis]));
  const ratio = policy === "crop" ? Math.max(...ratios) : Math.min(...ratios);
  return size.map((wanted, axis) =>
    Math.max(rint(Math.fround(current[axis] * ratio)), policy === "pad" ? 1 : wanted));
}

/** Return the center of an array [height, width, channels], padded with zeros where it is smaller. */
export function cropOrPad(values, shape, size, channels) {
  const result = new values.constructor(size[0] * size[1] * channels);
  const [top, left] = size.map((wanted, axis) => shape[axis] >= wanted
    ? Math.floor((shape[axis] - wanted) / 2) : -Math.floor((wanted - shape[axis]) / 2));
  for (let y = Math.max(0, -top); y < size[0] && y + top < shape[0]; y++) {
    const x = Math.max(0, -left);
    const count = Math.min(size[1] - x, shape[1] - x - left) * channels;
    const from = ((y + top) * shape[1] + x + left) * channels;
    result.set(values.subarray(from, from + count), (y * size[1] + x) * channels);
  }
  return result;
}

/** Return a rectangle of an image; beyond its edges the image is repeated, or black. */
export function cut(image, top, left, height, width, policy = "window_tile") {
  const data = new Uint8Array(height * width * 3);
  const inside = left >= 0 && left + width <= image.width;
  for (let y = 0; y < height; y++) {
    let row = y + top;
    if (policy === "window_pad" && (row < 0 || row >= image.height)) continue;
    row %= image.height;
    if (inside) {
      const from = (row * image.width + left) * 3;
      data.set(image.data.subarray(from, from + width * 3), y * width * 3);
      continue;
    }
    for (let x = 0; x < width; x++) {
      let column = x + left;
      if (policy === "window_pad" && (column < 0 || column >= image.width)) continue;
      column %= image.width;
      const from = (row * image.width + column) * 3;
      data.set(image.data.subarray(from, from + 3), (y * width + x) * 3);
    }
  }
  return {height, width, data};
}

/** Cut a window out of an image; position is down and across, from 0 to 1. */
export function window(image, size, policy, position) {
  const [top, left] = size.map((wanted, axis) => {
    const slack = (axis === 0 ? image.height : image.width) - wanted;
    if (slack < 0) return policy === "window_pad" ? -Math.floor(-slack / 2) : 0;
    const where = Math.floor(Math.fround(Math.fround(position[axis]) * Math.fround(slack + 1)));
    return Math.min(Math.max(where, 0), slack);
  });
  return cut(image, top, left, size[0], size[1], policy);
}

/** Crop the center on the grid of JPEG's blocks and encode it as JPEG once. */
export function equalize(image, {side, quality: [low, high]}) {
  const [top, left] = [image.height, image.width].map((length) => {
    const slack = Math.floor(Math.max(length - side, 0) / EQUALIZE_GRID);
    return EQUALIZE_GRID * Math.min(Math.trunc((slack + 1) * 0.5), slack);
  });
  const part = cut(image, top, left, Math.min(image.height, side), Math.min(image.width, side));
  return encodeAndDecode(part, Math.floor((low + high) / 2));
}

/** Return the parts of an image that a detector is given, for a view of a run. */
export function windows(image, {size, policy, crops, equalize: equalizing}) {
  if (equalizing) image = equalize(image, equalizing);
  if (crops === 1) return [resize(image, size, policy)];
  let positions = [0, 0.5, 1].flatMap((y) => [0, 0.5, 1].map((x) => [y, x]));
  if (crops === 5) positions = positions.filter((_, index) => index % 2 === 0);
  return positions.map((position) => window(image, size, policy, position));
}

/** Resize the mask Float32Array of a resized image to the [height, width] of the image. */
export function restore(mask, shape, original, policy) {
  if (policy !== "stretch") {
    const size = scaledSize(original, shape, policy);
    mask = cropOrPad(mask, shape, size, 1);
    shape = size;
  }
  const [rows, columns] = original.map((length, axis) => Array.from({length}, (_, i) => {
    const position = (i + 0.5) * (shape[axis] / length) - 0.5;
    const lower = Math.floor(position);
    const last = shape[axis] - 1;
    return [Math.min(Math.max(lower, 0), last), Math.min(Math.max(lower + 1, 0), last),
      Math.fround(position - lower)];
  }));
  const result = new Float32Array(original[0] * original[1]);
  rows.forEach(([upper, lower, down], y) => columns.forEach(([left, right, across], x) => {
    const blend = (column) => Math.fround(
      mask[upper * shape[1] + column] * (1 - down) + mask[lower * shape[1] + column] * down);
    result[y * original[1] + x] = blend(left) * (1 - across) + blend(right) * across;
  }));
  return result;
}
