// A worker that holds the detector and predicts one image at a time.

import {Detector} from "./detector.js";

const folder = new URL("../model/", import.meta.url).href;
const loading = fetch(`${folder}detector.json`).then((answer) => answer.json())
  .then((settings) => Detector.load(settings, folder));
loading.then(() => self.postMessage({ready: true}), (error) => self.postMessage({failed: String(error)}));

self.addEventListener("message", async ({data: {image}}) => {
  try {
    const detector = await loading;
    const found = await detector.predict(image, (done) => self.postMessage({done}));
    self.postMessage({found}, found.mask ? [found.mask.buffer] : []);
  } catch (error) {
    self.postMessage({failed: String(error)});
  }
});
