// A run's detector in ONNX Runtime, as tfdetect/light/onnx_detector.py, and its verdicts, as
// tfdetect/evaluation/verdicts.py and domain.py.

import * as ort from "../npm/onnxruntime-web/dist/ort.wasm.min.js";
import {cutsWindows, resize, restore, rint, windows} from "./resample.js";
import {byTiles, poolTiles, SMALLEST} from "./tiles.js";

const THRESHOLD = 0.5;  // P(altered) from which a pixel counts as altered
const MAX_AUTHENTIC = 0.499;  // highest P(altered) of a pixel where no mask is shown
const runtime = new URL("../npm/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1;  // more need headers that a plain static host does not send
ort.env.wasm.wasmPaths = {
  mjs: `${runtime}ort-wasm-simd-threaded.js`, wasm: `${runtime}ort-wasm-simd-threaded.wasm`,
};

export class Detector {
  /** Take a run's settings, the content of model/detector.json, and load its network. */
  static async load(settings, folder) {
    const detector = new Detector();
    detector.settings = settings;
    // Files that the network reads weights from.
    const externalData = settings.shared_files.map(
      (name) => ({path: name, data: `${folder}${name}.bin`}));
    const options = {executionProviders: ["wasm"], logSeverityLevel: 3, externalData};
    detector.session = await ort.InferenceSession.create(`${folder}detector.onnx`, options);
    if (settings.domain) {
      const answer = await fetch(`${folder}domain.bin`);
      detector.domain = new Float32Array(await answer.arrayBuffer());
    }
    return detector;
  }

  /**
   * Return the verdict on an image of `decode`, as a row of the server's answers, and, of a detector
   * that predicts masks, P(altered) of its pixels in 0..255. onProgress is given the fraction done.
   */
  async predict(image, onProgress = () => {}) {
    const scores = this.settings.predicts_masks
      ? await this.scorePixels(image, onProgress) : await this.score(image);
    if (scores.table.some(Number.isNaN)) return {row: {error: this.settings.not_a_number}};
    const row = this.verdict(scores, image);
    if (!scores.mask) return {row};
    const shown = row.p_fake >= Math.fround(this.settings.mask_threshold);
    const most = shown ? 1 : MAX_AUTHENTIC;
    const marked = shown ? scores.mask.reduce((count, p) => count + (p >= THRESHOLD), 0) : 0;
    row.altered_fraction = marked / scores.mask.length;
    return {row, mask: Uint8Array.from(scores.mask, (p) => rint(Math.min(p, most) * 255))};
  }

  async run(feeds) {
    const outputs = ["probabilities_raw", "features", "mask"]
      .filter((name) => this.session.outputNames.includes(name));
    return this.session.run(feeds, outputs);
  }

  async score(image) {
    const parts = this.settings.views.map((view) => windows(image, view));
    const found = await this.scoreParts(parts);
    if (!this.settings.mirror) return found;
    const mirrored = await this.scoreParts(parts.map((each) => each.map(flipped)));
    const table = found.table.map((p, i) => (p + mirrored.table[i]) / 2);
    return {...found, table};
  }

  async scoreParts(parts) {
    const feeds = {};
    parts.forEach((windows_, index) => {
      const {crops} = this.settings.graph_views[index];
      const {height, width} = windows_[0];
      const shape = crops === 1 ? [windows_.length] : [1, windows_.length];
      feeds[this.session.inputNames[index]] = tensorOf(windows_, [...shape, height, width, 3]);
    });
    const found = await this.run(feeds);
    return {table: meanOfRows(found.probabilities_raw), features: meanOfRows(found.features)};
  }

  async scorePixels(image, onProgress) {
    const [view] = this.settings.views;
    const tables = [];
    const features = [];
    const predict = async (tiles) => {
      const shape = [tiles.length, view.size[0], view.size[1], 3];
      const found = await this.run({[this.session.inputNames[0]]: tensorOf(tiles, shape)});
      tables.push(...rowsOf(found.probabilities_raw));
      features.push(...rowsOf(found.features));
      return rowsOf(found.mask);
    };
    let mask;
    if (cutsWindows(view.policy)) {
      mask = await byTiles(image, view.size, view.policy, predict, onProgress);
    } else {
      const [small] = await predict([resize(image, view.size, view.policy)]);
      mask = restore(small, view.size, [image.height, image.width], view.policy);
    }
    const table = poolTiles(tables, mask, view.tile_pooling);
    return {table, features: features.length ? meanOf(features) : null, mask};
  }

  verdict({table, features}, image) {
    const {class_names: names, threshold, band, training} = this.settings;
    const calibrated = this.calibrated(table);
    const fakes = calibrated.slice(1);
    const p = Math.fround(fakes.reduce((sum, value) => sum + value, 0));
    const kind = 1 + fakes.indexOf(Math.max(...fakes));
    const distance = features && this.domain ? this.distance(features) : null;
    const reasons = [];
    if (training.sides && !fits(training.sides, image)) reasons.push("size");
    if (training.formats && !training.formats.includes(image.format)) reasons.push("format");
    if (distance !== null && distance > this.settings.domain.limit) reasons.push("features");
    const known = training.sides || training.formats || this.settings.domain;
    const row = {
      p_fake: p,
      p_fake_raw: table.slice(1).reduce((sum, value) => sum + value, 0),
      ...Object.fromEntries(names.map((name, i) => [`probability_${name}`, calibrated[i]])),
      verdict: names[p >= Math.fround(threshold) ? kind : 0],
      inconclusive: p >= Math.fround(band[0]) && p < Math.fround(band[1]),
      in_domain: known ? reasons.length === 0 : null,
      domain_reasons: known ? reasons.join(", ") : null,
      feature_distance: distance,
      error: null,
    };
    return {...row, words: this.words(row)};
  }

  calibrated(table) {
    const {calibration} = this.settings;
    if (!calibration) return Array.from(table);
    const fakes = Array.from(table.slice(1), (each) => Math.max(each, SMALLEST));
    const fake = fakes.reduce((sum, value) => sum + value, 0);
    let logit = Math.log(fake) - Math.log(Math.max(table[0], SMALLEST));
    logit = calibration.knots
      ? interpolated(logit, ...calibration.knots) : calibration.scale * logit + calibration.shift;
    const p = 1 / (1 + Math.exp(-logit));
    const authentic = 1 / (1 + Math.exp(logit));
    return [authentic, ...fakes.map((each) => each / fake * p)].map(Math.fround);
  }

  // Mahalanobis distance; see tfdetect/core/feature_distance.py.
  distance(features) {
    const width = features.length;
    const centered = features.map((value, i) => value - this.domain[i]);
    let inside = 0;
    let outside = centered.reduce((sum, value) => sum + value * value, 0);
    for (let from = width; from < this.domain.length; from += width) {
      const component = this.domain.subarray(from, from + width);
      const along = component.reduce((sum, value, i) => sum + value * centered[i], 0);
      inside += along * along;
      outside -= along * along / component.reduce((sum, value) => sum + value * value, 0);
    }
    const {rest} = this.settings.domain;
    return Math.sqrt((inside + Math.max(outside, 0) / (rest * rest)) / width);
  }

  // The sentences were written by tfdetect for each verdict and each step of the probability.
  words(row) {
    const {steps, table, texts} = this.settings.words;
    const key = `${row.verdict}/${row.inconclusive}/${row.in_domain === false}`;
    let step = rint(row.p_fake * steps);
    if (steps === 100) {  // only beyond 0.5% and 99.5% a number of images in 100 is 0 or 100
      step = row.p_fake < 0.005 ? 0 : row.p_fake > 0.995 ? 100 : Math.min(Math.max(step, 1), 99);
    }
    if (row.p_fake >= 0.5) step += 1;  // one half comes twice
    const [headline, tone, ...lines] = table[key][step].map((number) => texts[number]);
    return {headline, tone, lines};
  }
}

function tensorOf(images, shape) {
  const data = new Uint8Array(images.length * images[0].data.length);
  images.forEach((image, index) => data.set(image.data, index * image.data.length));
  return new ort.Tensor("uint8", data, shape);
}

function rowsOf(tensor) {
  if (!tensor) return [];
  const width = tensor.data.length / tensor.dims[0];
  return Array.from({length: tensor.dims[0]}, (_, i) => tensor.data.slice(i * width, (i + 1) * width));
}

const meanOfRows = (tensor) => (tensor ? meanOf(rowsOf(tensor)) : null);

function meanOf(rows) {
  return rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
}

// Return whether an image has a size of those that the detector was made for.
function fits([low, high, longest], {height, width}) {
  const [shorter, longer] = [Math.min(height, width), Math.max(height, width)];
  return shorter >= low && shorter <= high && (longest === null || longer <= longest);
}

function flipped(image) {
  const {height, width} = image;
  const data = new Uint8Array(image.data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * width + width - 1 - x) * 3;
      data.set(image.data.subarray(from, from + 3), (y * width + x) * 3);
    }
  }
  return {height, width, data};
}

function interpolated(x, positions, values) {
  if (x <= positions[0]) return values[0];
  for (let i = 1; i < positions.length; i++) {
    if (x < positions[i]) {
      const slope = (values[i] - values[i - 1]) / (positions[i] - positions[i - 1]);
      return values[i - 1] + slope * (x - positions[i - 1]);
    }
  }
  return values[values.length - 1];
}
