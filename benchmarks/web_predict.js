// Predict one file with the detector of a web export's page; takes base64. The benchmark and the
// tests evaluate this in the page.
async (text) => {
  globalThis.detector ??= await (async () => {
    const {Detector} = await import(new URL("app/detector.js", location));
    const folder = new URL("model/", location).href;
    return Detector.load(await (await fetch(`${folder}detector.json`)).json(), folder);
  })();
  const {decode} = await import(new URL("app/decode.js", location));
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const started = performance.now();
  const {row, mask} = await detector.predict(await decode(bytes, 1e8));
  const seconds = (performance.now() - started) / 1000;
  return {row, mask: mask && Array.from(mask), seconds};
}
