// A worker that decodes one file at a time. The page ends it when a file takes too long, and after
// a file that cannot be decoded, so that no file has a decoder that another one has damaged.

import {decode} from "./decode.js";
import {ImageError} from "./headers.js";

self.addEventListener("message", async ({data: {bytes, maxPixels}}) => {
  try {
    const image = await decode(new Uint8Array(bytes), maxPixels);
    self.postMessage({image}, [image.data.buffer]);
  } catch (error) {
    const {code, values} = error instanceof ImageError ? error : new ImageError("damaged");
    self.postMessage({code, values});
  }
});
self.postMessage({ready: true});
