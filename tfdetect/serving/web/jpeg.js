// One JPEG encoding and decoding of an image, with the values that libjpeg-turbo gives: color
// subsampling 4:2:0, the slow integer DCT and triangle-filtered chroma. The bytes of a file are
// never made, since Huffman coding changes no value. libjpeg's integer arithmetic: T.81 (JPEG) with
// the DCT of Loeffler, Ligtenberg & Moschytz (ICASSP 1989) in 13-bit fixed point.

// Tables K.1 and K.2 of T.81, for quality 50.
const LUMINANCE = [
  16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
  14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
  18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
  49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMINANCE = [
  17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
  24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
  ...Array(32).fill(99),
];

// The DCT as libjpeg's fixed-point operations compute it: its butterflies are exact integers
// until the final shift, so each output is one sum over a row of this matrix.
const [A, B, C, D, E, F] = [11363, 9633, 6437, 2260, 10703, 4433];
const ONE = 8192;
const MATRIX = [
  [ONE, ONE, ONE, ONE, ONE, ONE, ONE, ONE],
  [A, B, C, D, -D, -C, -B, -A],
  [E, F, -F, -E, -E, -F, F, E],
  [B, -2259, -11362, -6436, 6436, 11362, 2259, -B],
  [ONE, -ONE, -ONE, ONE, ONE, -ONE, -ONE, ONE],
  [C, -11362, 2261, B, -B, -2261, 11362, -C],
  [F, -10704, 10704, -F, -F, 10704, -10704, F],
  [D, -6436, B, -A, A, -B, 6436, -D],
];

const fixed = (value) => Math.floor(value * 65536 + 0.5);
const HALF = 32768;
const clamp = (value) => (value < 0 ? 0 : value > 255 ? 255 : value);

/** Return an image encoded at a quality from 1 to 100 and decoded again. */
export function encodeAndDecode(image, quality) {
  const {height, width} = image;
  const [luma, blue, red] = toPlanes(image);
  codePlane(luma, scaledTable(LUMINANCE, quality));
  const shape = [Math.ceil(height / 2), Math.ceil(width / 2)];
  const chroma = [blue, red].map((plane) => {
    const small = halved(plane, shape[0]);
    codePlane(small, scaledTable(CHROMINANCE, quality));
    return doubled(small, shape);
  });
  return toImage(luma, chroma[0], chroma[1], height, width);
}

function scaledTable(table, quality) {
  const percent = quality < 50 ? Math.trunc(5000 / quality) : 200 - 2 * quality;
  return table.map((base) => Math.min(Math.max(Math.trunc((base * percent + 50) / 100), 1), 255));
}

// Return Y, Cb and Cr, each {height, width, data} with sides that are multiples of 16: beyond the
// image its last row and column are repeated.
function toPlanes(image) {
  const height = 16 * Math.ceil(image.height / 16);
  const width = 16 * Math.ceil(image.width / 16);
  const planes = [0, 1, 2].map(() => ({height, width, data: new Int16Array(height * width)}));
  const [y, cb, cr] = planes.map((plane) => plane.data);
  const weights = [0.299, 0.587, 0.114, 0.16874, 0.33126, 0.5, 0.41869, 0.08131].map(fixed);
  const [yr, yg, yb, br, bg, half, rg, rb] = weights;
  const offset = 128 * 65536 + HALF - 1;
  for (let row = 0, at = 0; row < height; row++) {
    const from = Math.min(row, image.height - 1) * image.width;
    for (let column = 0; column < width; column++, at++) {
      const i = (from + Math.min(column, image.width - 1)) * 3;
      const [r, g, b] = [image.data[i], image.data[i + 1], image.data[i + 2]];
      y[at] = (yr * r + yg * g + yb * b + HALF) >> 16;
      cb[at] = (half * b - br * r - bg * g + offset) >> 16;
      cr[at] = (half * r - rg * g - rb * b + offset) >> 16;
    }
  }
  return planes;
}

// Return a plane of half the size: means of 2 x 2 values, rounded down and up in turn. Below the
// image's own rows the last one is repeated.
function halved(plane, rows) {
  const height = plane.height / 2;
  const width = plane.width / 2;
  const data = new Int16Array(height * width);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const i = 2 * Math.min(y, rows - 1) * plane.width + 2 * x;
      const sum = plane.data[i] + plane.data[i + 1] + plane.data[i + plane.width]
        + plane.data[i + plane.width + 1];
      data[at] = (sum + 1 + x % 2) >> 2;
    }
  }
  return {height, width, data};
}

// Transform, quantize and restore each block of 8 x 8 values, in place.
function codePlane(plane, table) {
  const block = new Int32Array(64);
  const other = new Int32Array(64);
  for (let top = 0; top < plane.height; top += 8) {
    for (let left = 0; left < plane.width; left += 8) {
      for (let i = 0; i < 64; i++) {
        block[i] = plane.data[(top + (i >> 3)) * plane.width + left + (i & 7)] - 128;
      }
      forward(block, other, 11);
      forward(other, block, 15);
      for (let i = 0; i < 64; i++) {
        const divisor = 8 * table[i];
        const size = Math.floor((Math.abs(block[i]) + (divisor >> 1)) / divisor);
        block[i] = (block[i] < 0 ? -size : size) * table[i];
      }
      inverse(block, other, 11);
      inverse(other, block, 18);
      for (let i = 0; i < 64; i++) {
        plane.data[(top + (i >> 3)) * plane.width + left + (i & 7)] = clamp(block[i] + 128);
      }
    }
  }
}

// Transform the rows of a block and transpose it; the sums fit into 32 bits.
function forward(from, to, shift) {
  const round = 1 << (shift - 1);
  for (let row = 0; row < 8; row++) {
    for (let k = 0; k < 8; k++) {
      const weights = MATRIX[k];
      let sum = round;
      for (let j = 0; j < 8; j++) sum += from[8 * row + j] * weights[j];
      to[8 * k + row] = sum >> shift;
    }
  }
}

// Transform the columns of a block back and transpose it.
function inverse(from, to, shift) {
  const round = 1 << (shift - 1);
  for (let column = 0; column < 8; column++) {
    for (let j = 0; j < 8; j++) {
      let sum = round;
      for (let k = 0; k < 8; k++) sum += from[8 * k + column] * MATRIX[k][j];
      to[8 * column + j] = sum >> shift;
    }
  }
}

// Return a plane of twice the size, of which a part of the given shape is used: each value is
// blended 3 to 1 with its neighbors; a plane of up to 2 columns is repeated instead.
function doubled(plane, [height, width]) {
  const data = new Int16Array(4 * height * width);
  if (width <= 2) {
    for (let y = 0, at = 0; y < 2 * height; y++) {
      for (let x = 0; x < 2 * width; x++, at++) {
        data[at] = plane.data[(y >> 1) * plane.width + (x >> 1)];
      }
    }
    return {height: 2 * height, width: 2 * width, data};
  }
  const sums = new Int32Array(width);
  for (let y = 0; y < 2 * height; y++) {
    const near = y >> 1;
    const far = Math.min(Math.max(near + (y % 2 ? 1 : -1), 0), height - 1);
    for (let x = 0; x < width; x++) {
      sums[x] = 3 * plane.data[near * plane.width + x] + plane.data[far * plane.width + x];
    }
    for (let x = 0; x < width; x++) {
      const at = 2 * (y * width + x);
      data[at] = (3 * sums[x] + sums[Math.max(x - 1, 0)] + 8) >> 4;
      data[at + 1] = (3 * sums[x] + sums[Math.min(x + 1, width - 1)] + 7) >> 4;
    }
  }
  return {height: 2 * height, width: 2 * width, data};
}

function toImage(luma, blue, red, height, width) {
  const data = new Uint8Array(height * width * 3);
  const [rr, bb, gr, gb] = [1.402, 1.772, 0.71414, 0.34414].map(fixed);
  for (let row = 0, at = 0; row < height; row++) {
    for (let column = 0; column < width; column++, at += 3) {
      const y = luma.data[row * luma.width + column];
      const b = blue.data[row * blue.width + column] - 128;
      const r = red.data[row * red.width + column] - 128;
      data[at] = clamp(y + ((rr * r + HALF) >> 16));
      data[at + 1] = clamp(y + ((-gb * b - gr * r + HALF) >> 16));
      data[at + 2] = clamp(y + ((bb * b + HALF) >> 16));
    }
  }
  return {height, width, data};
}
