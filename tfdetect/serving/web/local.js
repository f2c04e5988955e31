// The page of the folder that works without a server: files are decoded and analyzed by workers in
// this browser.

import {fill, settings, startPage, t} from "./page.js";

// A worker made from a blob keeps the page's Content-Security-Policy, which one from a file lacks.
// It imports in a call, since the policy takes a statement's import for a worker from a file.
function startWorker(name) {
  const code = `import(${JSON.stringify(new URL(name, import.meta.url).href)});`;
  const url = URL.createObjectURL(new Blob([code], {type: "text/javascript"}));
  return new Worker(url, {type: "module"});
}

// Return the first message of a worker that has one of the given keys.
function messageOf(worker, keys, onOther = () => {}) {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({data}) => (keys.some((key) => key in data) ? resolve(data) : onOther(data));
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(t.stopped));
    };
  });
}

let decoder = null;
let detector = null;

async function decode(file) {
  const bytes = await file.arrayBuffer();
  if (!decoder) {
    decoder = startWorker("decoder_worker.js");
    await messageOf(decoder, ["ready"]);
  }
  const answer = messageOf(decoder, ["image", "code"]);
  decoder.postMessage({bytes, maxPixels: settings.max_pixels}, [bytes]);
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, 1000 * settings.timeout_s, {code: "too_slow", values: {}});
  });
  const found = await Promise.race([answer, late]).catch(() => ({code: "damaged", values: {}}));
  clearTimeout(timer);
  if (found.image && file.size < settings.large_file) return found.image;
  decoder.terminate();  // what a large file needed is given back, and a stuck decoder is ended
  decoder = null;
  if (found.image) return found.image;
  throw new Error(fill(t.decoding[found.code], found.values));
}

async function analyze(task, report) {
  if (!detector) {
    report(fill(t.loading, {megabytes: settings.megabytes}));
    const started = startWorker("detector_worker.js");
    const {failed} = await messageOf(started, ["ready", "failed"]);
    if (failed) {
      console.error(failed);
      throw Object.assign(new Error(t.not_loaded), {retry: true});
    }
    detector = started;
  }
  report(t.working);
  const image = await decode(task.file);
  const {height, width} = image;
  const answer = messageOf(detector, ["found", "failed"], ({done}) => report(t.working, done));
  detector.postMessage({image}, [image.data.buffer]);
  const {found, failed} = await answer.catch((error) => ({failed: error}));
  if (failed) {
    console.error(failed);
    detector.terminate();
    detector = null;
    throw Object.assign(new Error(t.stopped), {retry: true});
  }
  return {row: found.row, mask: found.mask ? imageOf(found.mask, height, width) : null};
}

// Return a canvas whose gray is that of a mask, at most about 4 megapixels large.
function imageOf(mask, height, width) {
  const step = Math.ceil(Math.sqrt(height * width / 2 ** 22));
  const [tall, wide] = [Math.ceil(height / step), Math.ceil(width / step)];
  const pixels = new ImageData(wide, tall);
  for (let y = 0, to = 0; y < tall; y++) {
    for (let x = 0; x < wide; x++, to += 4) {
      const gray = mask[y * step * width + x * step];
      pixels.data.set([gray, gray, gray, 255], to);
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = wide;
  canvas.height = tall;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

startPage({analyze, evidence: null, explain: null, concurrent: 1});
