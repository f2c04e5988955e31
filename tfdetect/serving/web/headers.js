// What the header of an image file says, as tfdetect/imaging/headers.py reads it: whether the
// pinned decoders may see the file, its size and its orientation. The file's bytes are checked
// before any of them does.

const MAX_METADATA = 65536;  // bytes of EXIF and of XMP that are searched for the orientation
const MAX_SEGMENTS = 1000;
const MAX_CHUNKS = 10000;
const CHECKED_CHUNKS = 100000;  // of a PNG; those behind are not checked
const PNG_DEPTHS = {0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16]};

/** A file that is not decoded; `code` is the key of its reason in the page's texts. */
export class ImageError extends Error {
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

/**
 * Return {format, width, height, orientation, ignored}: sizes are as stored, before the image is
 * turned; ignored has start and end of the parts of the file that no decoder is to see.
 */
export async function readHeader(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const starts = (...values) => values.every((value, i) => value === null || bytes[i] === value);
  if (bytes.length === 0) throw new ImageError("empty");
  try {
    if (starts(0xff, 0xd8, 0xff)) return jpegHeader(bytes, view);
    if (starts(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10)) return await pngHeader(bytes, view);
    if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 12) === "WEBP") {
      return webpHeader(bytes, view);
    }
  } catch (error) {
    throw error instanceof ImageError ? error : new ImageError("damaged");
  }
  throw new ImageError("other_format");
}

const text = (bytes, from, to) => new TextDecoder("latin1").decode(bytes.subarray(from, to));

function jpegHeader(bytes, view) {
  let exif = new Uint8Array();
  let xmp = exif;
  let frame = null;
  let end = 2;
  for (const [marker, start, length] of segments(bytes, view)) {
    end = start + Math.max(length, 0);
    const part = bytes.subarray(start, start + Math.min(Math.max(length, 0), MAX_METADATA));
    if (marker === 0xe1 && !exif.length && text(part, 0, 6) === "Exif\0\0") exif = part;
    if (marker === 0xe1 && !xmp.length && text(part, 0, 29) === "http://ns.adobe.com/xap/1.0/\0") {
      xmp = part;
    }
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker) && !frame) {
      if (part.length < 6) throw new ImageError("damaged");
      frame = [marker, part[0], (part[1] << 8) + part[2], (part[3] << 8) + part[4], part[5]];
    }
  }
  if (!frame || !hasEnd(bytes, end)) throw new ImageError("damaged");
  const [marker, bits, height, width, components] = frame;
  const known = [0xc0, 0xc1, 0xc2, 0xc9, 0xca].includes(marker);
  if (!known || bits !== 8 || ![1, 3].includes(components)) throw new ImageError("odd_jpeg");
  return {format: "JPEG", width, height, orientation: orientationOf(exif, xmp)};
}

// Yield marker, start and length of the content of each segment before the first scan. Bytes
// between segments are skipped; metadata behind such bytes do not count.
function* segments(bytes, view) {
  let at = 2;
  let whole = true;
  for (let i = 0; i < MAX_SEGMENTS; i++) {
    let marker = view.getUint8(at + 1);
    if (bytes[at] !== 0xff || marker === 0) {
      at = bytes.indexOf(0xff, at + 1);
      if (at < 0) throw new ImageError("damaged");
      whole = false;
      continue;
    }
    if (marker === 0xff) {  // a fill byte
      at += 1;
      continue;
    }
    if (marker === 0xd9 || marker === 0xda) return;
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {  // markers without a length
      at += 2;
      whole = false;
      continue;
    }
    if (!whole && marker >= 0xe0 && marker <= 0xef) marker = 0xfe;
    const length = view.getUint16(at + 2);
    yield [marker, at + 4, length - 2];
    at += 2 + Math.max(length, 2);
  }
}

// Return whether a JPEG has its end marker behind a position.
function hasEnd(bytes, from) {
  for (let at = bytes.length - 2; at >= from; at--) {
    if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  }
  return false;
}

async function pngHeader(bytes, view) {
  const [width, height] = [view.getUint32(16), view.getUint32(20)];
  if (text(bytes, 12, 16) !== "IHDR" || !PNG_DEPTHS[bytes[25]]?.includes(bytes[24])) {
    throw new ImageError("damaged");
  }
  let exif = null;
  let profile = null;
  let xmp = null;
  for (const [kind, start, length] of chunks(view, 8, false, 4)) {
    const part = bytes.subarray(start, start + Math.min(length, MAX_METADATA));
    if (kind === "IEND") break;
    if (kind === "eXIf") exif ??= part;
    if ((kind === "tEXt" || kind === "zTXt") && text(part, 0, 22) === "Raw profile type exif\0") {
      profile ??= {part: part.subarray(22), packed: kind === "zTXt"};
    }
    if (kind === "iTXt" && text(part, 0, 18) === "XML:com.adobe.xmp\0") xmp ??= part.subarray(18);
  }
  if (!exif && profile) {
    const found = profile.packed ? await inflate(profile.part.subarray(1)) : profile.part;
    const digits = text(found).split("\n").slice(3).join("").replace(/[^0-9a-fA-F]/g, "");
    exif = Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
  }
  if (xmp?.[0] === 1) {  // compressed; two more texts precede it
    let from = 2;
    for (let i = 0; i < 2; i++) from = xmp.indexOf(0, from) + 1 || from;
    xmp = await inflate(xmp.subarray(from));
  }
  const none = new Uint8Array();
  const orientation = orientationOf(exif ?? none, xmp ?? none);
  return {format: "PNG", width, height, orientation, ignored: brokenChunks(bytes, view)};
}

// Return start and end of each chunk with a wrong checksum that is not needed to decode the image.
function brokenChunks(bytes, view) {
  const found = [];
  for (let at = 8, i = 0; i < CHECKED_CHUNKS; i++) {
    const stop = at + 12 + view.getUint32(at);
    const kind = text(bytes, at + 4, at + 8);
    if (stop > bytes.length || !/^[A-Za-z]{4}$/.test(kind)) throw new ImageError("damaged");
    if (checksum(bytes.subarray(at + 4, stop - 4)) !== view.getUint32(stop - 4)) {
      if (/^[A-Z]/.test(kind)) throw new ImageError("damaged");
      found.push([at, stop]);
    }
    if (kind === "IEND") break;
    at = stop;
  }
  return found;
}

const CRC = Uint32Array.from({length: 256}, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

// Return the CRC-32 of bytes.
function checksum(bytes) {
  let sum = 0xffffffff;
  for (const value of bytes) sum = CRC[(sum ^ value) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

// Return the first MAX_METADATA bytes of a compressed text; nothing where it is invalid.
async function inflate(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate"));
  const reader = stream.getReader();
  const found = [];
  try {
    for (let size = 0; size < MAX_METADATA;) {
      const {done, value} = await reader.read();
      if (done) break;
      found.push(...value.subarray(0, MAX_METADATA - size));
      size += value.length;
    }
  } catch {
    return new Uint8Array();
  }
  reader.cancel();
  return Uint8Array.from(found);
}

// Yield kind, start and length of each chunk of a PNG or a RIFF file.
function* chunks(view, at, little, trailer) {
  for (let i = 0; i < MAX_CHUNKS && at + 8 <= view.byteLength; i++) {
    const [name, size] = little ? [at, at + 4] : [at + 4, at];
    const length = view.getUint32(size, little);
    yield [String.fromCharCode(...[0, 1, 2, 3].map((j) => view.getUint8(name + j))), at + 8, length];
    at += 8 + length + trailer + (little ? length % 2 : 0);
  }
}

function webpHeader(bytes, view) {
  const first = text(bytes, 12, 16);
  const three = (at) => 1 + bytes[at] + (bytes[at + 1] << 8) + (bytes[at + 2] << 16);
  if (first === "VP8X" && bytes.length >= 30) {
    if (bytes[20] & 2) throw new ImageError("animated");
    let [exif, xmp] = [new Uint8Array(), new Uint8Array()];
    const end = Math.min(bytes.length, 8 + view.getUint32(4, true));
    for (const [kind, start, length] of chunks(view, 12, true, 0)) {
      if (start + length > end) throw new ImageError("damaged");
      const part = bytes.subarray(start, start + Math.min(length, MAX_METADATA));
      if (kind === "EXIF" && !exif.length) exif = part;
      if (kind === "XMP " && !xmp.length) xmp = part;
    }
    const orientation = orientationOf(exif, xmp);
    return {format: "WEBP", width: three(24), height: three(27), orientation};
  }
  if (first === "VP8 " && text(bytes, 23, 26) === "\x9d\x01\x2a") {
    const [width, height] = [26, 28].map((at) => view.getUint16(at, true) & 0x3fff);
    return {format: "WEBP", width, height, orientation: 1};
  }
  if (first === "VP8L" && bytes[20] === 0x2f) {
    const sides = view.getUint32(21, true);
    const [width, height] = [1 + (sides & 0x3fff), 1 + ((sides >> 14) & 0x3fff)];
    return {format: "WEBP", width, height, orientation: 1};
  }
  throw new ImageError("damaged");
}

/** Return the orientation, 1 to 8, that EXIF names or, where it names none, XMP. */
export function orientationOf(exif, xmp) {
  const named = /tiff:Orientation(?:=["']|>)([1-8])/.exec(text(xmp));
  return exifOrientation(exif) || Number(named?.[1] ?? 1);
}

function exifOrientation(exif) {
  const tiff = text(exif, 0, 6) === "Exif\0\0" ? exif.subarray(6) : exif;
  const start = text(tiff, 0, 4);
  if (!["II*\0", "MM\0*"].includes(start) || tiff.length < 8) return 0;
  const little = start[0] === "I";
  const view = new DataView(tiff.buffer, tiff.byteOffset, tiff.byteLength);
  const directory = view.getUint32(4, little);
  if (directory + 2 > tiff.length) return 0;
  const count = Math.min(view.getUint16(directory, little), 512);
  for (let i = 0; i < count; i++) {
    const entry = directory + 2 + 12 * i;
    if (entry + 12 > tiff.length) return 0;
    if (view.getUint16(entry, little) === 0x0112) {
      const long = view.getUint16(entry + 2, little) === 4;
      const value = long ? view.getUint32(entry + 8, little) : view.getUint16(entry + 8, little);
      return value >= 1 && value <= 8 ? value : 0;
    }
  }
  return 0;
}
