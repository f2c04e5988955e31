"""Image files of every container and mode, made in memory: what `imaging.formats` is held to."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tfdetect.imaging.pillow import register_heic

WIDTH, HEIGHT = 61, 40


def photograph(width=WIDTH, height=HEIGHT):
    """Return a smooth random picture whose corners all differ."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image, format, **options):
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def with_alpha(image):
    """Return the picture with a ramp of alpha, from transparent to opaque."""
    image = image.convert("RGBA")
    ramp = np.linspace(0, 255, image.width).astype(np.uint8)
    image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return image


def exif(orientation, before=()):
    tags = Image.Exif()
    tags[0x010F] = "a maker"
    tags[0x0112] = orientation
    return tags.tobytes()


def big_endian_exif(orientation):
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def xmp(orientation):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-'
        'rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    ).encode()


def jpeg_segment(marker, payload):
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_with(data, *segments):
    """Insert segments behind the JFIF segment of a JPEG that Pillow wrote."""
    end = 4 + struct.unpack(">H", data[4:6])[0]
    return data[:end] + b"".join(segments) + data[end:]


def jpeg_frame(data, marker=None, bits=None, size=None):
    """Return a JPEG that Pillow wrote with another kind, precision or size in its frame header."""
    at, data = data.index(b"\xff\xc0"), bytearray(data)
    if marker:
        data[at + 1] = marker
    if bits:
        data[at + 4] = bits
    if size:
        data[at + 5 : at + 9] = struct.pack(">HH", *size[::-1])
    return bytes(data)


def ycck(image):
    """Return a CMYK JPEG whose Adobe segment says YCCK."""
    data = bytearray(encode(image.convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def without_adobe(data):
    at = data.index(b"Adobe") - 4
    return data[:at] + data[at + 16 :]


def content_credentials(size):
    """Return APP11 segments as C2PA writes them, `size` bytes of them."""
    return b"".join(
        jpeg_segment(0xEB, b"JP\0\1\0\0\0\1" + bytes(min(size - start, 65_000)))
        for start in range(0, size, 65_000)
    )


def color_profile(size):
    return b"".join(
        jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes([number + 1, 3]) + bytes(size // 3))
        for number in range(3)
    )


def png_chunk(kind, payload):
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(
        ">I", zlib.crc32(kind + payload)
    )  # fmt: skip


def png(samples, bits, color, chunks=(), interlaced=False, late=()):
    """Encode a PNG of any color type and depth.

    Args:
        samples: int [H, W, C].
        bits: of a sample.
        color: PNG's color type.
        chunks, late: (kind, payload) of chunks before and behind the pixels.
        interlaced: in Adam7's order.
    """
    samples = np.asarray(samples)
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, int(interlaced))
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]  # fmt: skip
    raw = b""
    for left, top, across, down in passes:
        for row in samples[top::down, left::across] if left < width and top < height else ():
            if bits == 16:
                line = row.astype(">u2").tobytes()
            elif bits == 8:
                line = row.astype(np.uint8).tobytes()
            else:
                ones = (row.reshape(-1, 1) >> np.arange(bits)[::-1]) & 1
                line = np.packbits(ones.astype(np.uint8).ravel()).tobytes()
            raw += b"\0" + line
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(*chunk) for chunk in (
            (b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), *late, (b"IEND", b""),
        )
    )  # fmt: skip


def png_of(image, mode, bits, interlaced=False, chunks=()):
    """Encode the picture as a PNG of one mode: gray, palette, color, gray_alpha or alpha."""
    top = (1 << bits) - 1

    def scaled(array):
        array = np.asarray(array).astype(np.int64)
        array = array * 257 + 13 if bits == 16 else array * (top + 1) // 256
        return np.clip(array, 0, top).reshape(*array.shape[:2], -1)

    if mode == "palette":
        small = image.quantize(top + 1)
        colors = np.array(small.getpalette()[: 3 * (top + 1)], np.uint8).tobytes()
        samples = np.asarray(small)[..., None].astype(np.int64)
        return png(samples, bits, 3, [(b"PLTE", colors), *chunks], interlaced)
    pictures = {
        "gray": (image.convert("L"), 0), "color": (image, 2),
        "gray_alpha": (with_alpha(image).convert("LA"), 4), "alpha": (with_alpha(image), 6),
    }  # fmt: skip
    picture, color = pictures[mode]
    return png(scaled(picture), bits, color, chunks, interlaced)


def png_with(data, *chunks, late=False):
    """Insert chunks behind IHDR, or before IEND, of a PNG."""
    at = len(data) - 12 if late else 33
    return data[:at] + b"".join(png_chunk(*c) for c in chunks) + data[at:]


def raw_profile(orientation):
    """Return EXIF as ImageMagick stores it in a PNG."""
    data = exif(orientation)
    return b"Raw profile type exif\0" + f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()


def bmp(image, bits, header=40, compression=0, top_down=False, colors=0):
    """Encode an uncompressed BMP of any depth, with a header of OS/2 or of Windows."""
    width, height = image.size
    palette = b""
    if bits <= 8:
        small = image.quantize(1 << bits)
        table = np.array(small.getpalette() + [0] * 768, np.uint8)[: 3 << bits].reshape(-1, 3)
        entry = table[:, ::-1]
        if header != 12:
            entry = np.pad(entry, [(0, 0), (0, 1)])
        palette = entry[: colors or None].tobytes()
        ones = (np.asarray(small)[..., None] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(ones.astype(np.uint8).reshape(height, -1), axis=1)
    elif bits == 16:
        pixels = np.asarray(image).astype(np.uint16)
        if compression == 3:  # 5, 6 and 5 bits
            packed = pixels[..., 0] >> 3 << 11 | pixels[..., 1] >> 2 << 5 | pixels[..., 2] >> 3
            palette = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
        else:
            packed = pixels[..., 0] >> 3 << 10 | pixels[..., 1] >> 3 << 5 | pixels[..., 2] >> 3
        rows = packed.astype("<u2").view(np.uint8).reshape(height, -1)
    else:
        pixels = np.asarray(with_alpha(image) if bits == 32 else image)
        rows = np.ascontiguousarray(pixels[..., [2, 1, 0, 3][: bits // 8]]).reshape(height, -1)
    rows = np.pad(rows, [(0, 0), (0, -rows.shape[1] % 4)])
    body = (rows if top_down else rows[::-1]).tobytes()
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        signed = -height if top_down else height
        info = struct.pack("<IiiHHIIiiII", header, width, signed, 1, bits, compression, len(body),
                           0, 0, colors, 0)  # fmt: skip
        if header > 40:
            masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
            info += (masks if compression == 3 else bytes(16)) + bytes(header - 56)
    start = 14 + len(info) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + info + palette + body


def bmp_run_lengths(image, bits=8):
    """Encode a gray BMP with a run for each pixel (two pixels at 4 bits)."""
    levels = np.asarray(image.convert("L"))
    if bits == 4:
        levels = levels[:, : levels.shape[1] // 2 * 2] >> 4
        levels = levels[:, ::2] << 4 | levels[:, 1::2]
    height, width = levels.shape
    run = 8 // bits
    rows = [np.stack([np.full(width, run, np.uint8), row], 1).tobytes() for row in levels[::-1]]
    data = b"\0\0".join(rows) + b"\0\1"
    step = 255 // ((1 << bits) - 1)
    gray = (np.arange(1 << bits) * step).astype(np.uint8)
    palette = np.repeat(gray[:, None], 4, 1).tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, width * run, height, 1, bits, 1 if bits == 8 else 2,
                       len(data), 0, 0, 1 << bits, 0)  # fmt: skip
    start = 14 + len(info) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + info + palette + data


def gif_on_canvas(image, canvas=(80, 60), at=(7, 5), transparent=None):
    """Return a GIF whose frame covers only a part of its canvas."""
    options = {} if transparent is None else {"transparency": transparent}
    data = bytearray(encode(image.quantize(64), "GIF", **options))
    frame = data.index(b",", 13 + 3 * (2 << (data[10] & 7)))
    data[6:10] = struct.pack("<HH", *canvas)
    data[frame + 1 : frame + 5] = struct.pack("<HH", *at)
    return bytes(data)


def frames(image, format, **options):
    return encode(image, format, save_all=True, append_images=[image.rotate(90)], **options)


def sixteen_bits():
    return (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 26).astype(np.uint16)


def pgm16(image):
    return f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + sixteen_bits().astype(">u2").tobytes()


def plain_ppm(image):
    numbers = " ".join(map(str, np.asarray(image).ravel()))
    return f"P3\n# a comment\n{image.width} {image.height}\n255\n{numbers}\n".encode()


def vp8x(data, flags=None, canvas=None):
    """Return an extended WebP with other flags or another canvas in its header."""
    data = bytearray(data)
    if flags is not None:
        data[20] = flags
    if canvas is not None:
        for place, side in zip((24, 27), canvas):
            data[place : place + 3] = struct.pack("<I", side - 1)[:3]
    return bytes(data)


def _files() -> dict[str, Callable[[Image.Image], bytes]]:
    files = {
        "jpeg": lambda i: encode(i, "JPEG", quality=75),
        "jpeg_444": lambda i: encode(i, "JPEG", subsampling=0, quality=95),
        "jpeg_422": lambda i: encode(i, "JPEG", subsampling=1, quality=90),
        "jpeg_restarts": lambda i: encode(i, "JPEG", restart_marker_blocks=1),
        "jpeg_progressive": lambda i: encode(i, "JPEG", progressive=True),
        "jpeg_gray": lambda i: encode(i.convert("L"), "JPEG"),
        "jpeg_rgb": lambda i: encode(i, "JPEG", keep_rgb=True),
        "jpeg_one_pixel": lambda i: encode(i.crop((0, 0, 1, 1)), "JPEG"),
        "jpeg_extended_sequential": lambda i: jpeg_frame(encode(i, "JPEG"), 0xC1),
        "jpeg_arithmetic": lambda i: jpeg_frame(encode(i, "JPEG"), 0xC9),
        "jpeg_cmyk": lambda i: encode(i.convert("CMYK"), "JPEG"),
        "jpeg_ycck": ycck,
        "jpeg_cmyk_no_adobe": lambda i: without_adobe(encode(i.convert("CMYK"), "JPEG")),
        "jpeg_12_bits": lambda i: jpeg_frame(encode(i, "JPEG"), 0xC1, 12),
        "jpeg_lossless": lambda i: jpeg_frame(encode(i, "JPEG"), 0xC3),
        "jpeg_hierarchical": lambda i: jpeg_frame(encode(i, "JPEG"), 0xC5),
        "jpeg_exif_6": lambda i: encode(i, "JPEG", exif=exif(6)),
        "jpeg_exif_big_endian": lambda i: encode(i, "JPEG", exif=big_endian_exif(8)),
        "jpeg_exif_late": lambda i: jpeg_with(
            encode(i, "JPEG"), content_credentials(80_000), jpeg_segment(0xE1, exif(6))
        ),
        "jpeg_exif_after_profile": lambda i: jpeg_with(
            encode(i, "JPEG"), color_profile(120_000), jpeg_segment(0xE1, exif(3))
        ),
        "jpeg_xmp": lambda i: encode(i, "JPEG", xmp=xmp(6)),
        "jpeg_xmp_late": lambda i: jpeg_with(
            encode(i, "JPEG"), content_credentials(80_000),
            jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(5)),
        ),
        "jpeg_exif_before_xmp": lambda i: encode(i, "JPEG", exif=exif(8), xmp=xmp(3)),
        "jpeg_exif_without_orientation": lambda i: encode(
            i, "JPEG", exif=big_endian_exif(1).replace(b"\x01\x12", b"\x01\x13"), xmp=xmp(6)
        ),
        "jpeg_thumbnail_in_exif": lambda i: jpeg_with(
            encode(i, "JPEG"), jpeg_segment(0xE1, exif(6) + encode(i.resize((16, 12)), "JPEG"))
        ),
        "jpeg_exif_in_a_comment": lambda i: jpeg_with(
            encode(i, "JPEG"), jpeg_segment(0xFE, exif(6))
        ),
        "mpo": lambda i: frames(i, "MPO"),
        "png_alpha_8_exif": lambda i: encode(with_alpha(i), "PNG", exif=exif(7)),
        "png_exif_6": lambda i: encode(i, "PNG", exif=exif(6)),
        "png_exif_behind_pixels": lambda i: png_with(
            encode(i, "PNG"), (b"eXIf", exif(6)[6:]), late=True
        ),
        "png_xmp": lambda i: png_with(
            encode(i, "PNG"), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))
        ),
        "png_raw_profile": lambda i: png_with(encode(i, "PNG"), (b"tEXt", raw_profile(6))),
        "png_raw_profile_compressed": lambda i: png_with(
            encode(i, "PNG"),
            (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(8)[22:])),
        ),
        "png_color_key": lambda i: png_of(
            i, "color", 8, chunks=[(b"tRNS", struct.pack(">HHH", *i.getpixel((0, 0))))]
        ),
        "png_gray_key": lambda i: png_of(
            i, "gray", 8, chunks=[(b"tRNS", struct.pack(">H", i.convert("L").getpixel((0, 0))))]
        ),
        "png_gray_1_key": lambda i: png_of(i, "gray", 1, chunks=[(b"tRNS", b"\0\1")]),
        "png_color_16_key": lambda i: png_of(
            i, "color", 16, chunks=[(b"tRNS", struct.pack(">HHH", 1, 2, 3))]
        ),
        "png_palette_alpha": lambda i: png_of(
            i, "palette", 8, chunks=[(b"tRNS", bytes(range(256)))]
        ),
        "png_gamma": lambda i: png_of(
            i, "color", 8, chunks=[(b"gAMA", struct.pack(">I", 100_000))]
        ),
        "apng": lambda i: frames(i, "PNG"),
        "apng_default_apart": lambda i: encode(
            i, "PNG", save_all=True, append_images=[i.rotate(90), i.rotate(180)],
            default_image=True,
        ),
        "webp": lambda i: encode(i, "WEBP"),
        "webp_lossless": lambda i: encode(i, "WEBP", lossless=True),
        "webp_alpha": lambda i: encode(with_alpha(i), "WEBP", lossless=True, exact=True),
        "webp_lossy_alpha": lambda i: encode(with_alpha(i), "WEBP", quality=80, exact=True),
        "webp_exif_6": lambda i: encode(i, "WEBP", lossless=True, exif=exif(6)),
        "webp_xmp": lambda i: encode(i, "WEBP", lossless=True, xmp=xmp(6)),
        "webp_profile": lambda i: encode(i, "WEBP", lossless=True, icc_profile=bytes(500)),
        "webp_animated": lambda i: frames(i, "WEBP", lossless=True),
        "webp_animated_alpha": lambda i: encode(
            with_alpha(i), "WEBP", save_all=True, append_images=[with_alpha(i.rotate(90))],
            lossless=True, exact=True,
        ),
        "bmp_24_top_down": lambda i: bmp(i, 24, top_down=True),
        "bmp_24_os2": lambda i: bmp(i, 24, header=12),
        "bmp_8_os2": lambda i: bmp(i, 8, header=12),
        "bmp_8_few_colors": lambda i: encode(i.quantize(77), "BMP"),
        "bmp_8_gray": lambda i: encode(i.convert("L"), "BMP"),
        "bmp_16_bit_fields": lambda i: bmp(i, 16, compression=3),
        "bmp_32_v4": lambda i: bmp(i, 32, header=108),
        "bmp_32_v5_bit_fields": lambda i: bmp(i, 32, header=124, compression=3),
        "bmp_run_lengths_8": bmp_run_lengths,
        "bmp_run_lengths_4": lambda i: bmp_run_lengths(i, 4),
        "gif": lambda i: encode(i, "GIF"),
        "gif_gray": lambda i: encode(i.convert("L"), "GIF"),
        "gif_frames": lambda i: frames(i, "GIF"),
        "gif_transparent": lambda i: encode(i.quantize(64), "GIF", transparency=3),
        "gif_small_frame": gif_on_canvas,
        "gif_small_frame_transparent": lambda i: gif_on_canvas(i, transparent=3),
        "gif_interlaced": lambda i: encode(i, "GIF", interlace=1),
        "tiff": lambda i: encode(i, "TIFF"),
        "tiff_gray": lambda i: encode(i.convert("L"), "TIFF"),
        "tiff_1_bit": lambda i: encode(i.convert("1"), "TIFF"),
        "tiff_g4": lambda i: encode(i.convert("1"), "TIFF", compression="group4"),
        "tiff_palette": lambda i: encode(i.convert("P"), "TIFF"),
        "tiff_alpha": lambda i: encode(with_alpha(i), "TIFF"),
        "tiff_cmyk": lambda i: encode(i.convert("CMYK"), "TIFF"),
        "tiff_lab": lambda i: encode(i.convert("LAB"), "TIFF"),
        "tiff_pages": lambda i: frames(i, "TIFF"),
        "tiff_turned": lambda i: encode(i, "TIFF", tiffinfo={0x0112: 6}),
        "tiff_16_bits": lambda i: encode(Image.fromarray(sixteen_bits()), "TIFF"),
        "tiff_32_bits": lambda i: encode(
            Image.fromarray(sixteen_bits().astype(np.int32)), "TIFF"
        ),
        "tiff_float": lambda i: encode(Image.fromarray(sixteen_bits().astype(np.float32)), "TIFF"),
        "tiff_big": lambda i: encode(i, "TIFF", big_tiff=True),
        "ppm": lambda i: encode(i, "PPM"),
        "ppm_plain": plain_ppm,
        "pgm": lambda i: encode(i.convert("L"), "PPM"),
        "pgm_16_bits": pgm16,
        "pbm": lambda i: encode(i.convert("1"), "PPM"),
        "pfm": lambda i: encode(i.convert("F"), "PPM"),
        "pam": lambda i: f"P7\nWIDTH {i.width}\nHEIGHT {i.height}\nDEPTH 3\nMAXVAL 255\n"
        f"TUPLTYPE RGB\nENDHDR\n".encode() + i.tobytes(),
        "avif": lambda i: encode(i, "AVIF", quality=90),
        "avif_alpha": lambda i: encode(with_alpha(i), "AVIF", quality=90),
        "avif_turned": lambda i: encode(i, "AVIF", exif=exif(6)),
        "avif_frames": lambda i: frames(i, "AVIF"),
        "ico": lambda i: encode(i, "ICO"),
        "tga": lambda i: encode(i, "TGA"),
        "jpeg2000": lambda i: encode(i, "JPEG2000"),
        "pcx": lambda i: encode(i, "PCX"),
        "sgi": lambda i: encode(i, "SGI"),
        "dds": lambda i: encode(i, "DDS"),
        "psd": lambda i: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 40, 61, 8, 3),
        "jpeg_xl": lambda i: b"\xff\x0a" + bytes(40),
        "svg": lambda i: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "text": lambda i: b"not an image at all",
        "empty": lambda i: b"",
        "jpeg_too_large": lambda i: jpeg_frame(encode(i, "JPEG"), size=(65_500, 65_500)),
        "png_too_large": lambda i: png_with_size(encode(i, "PNG"), 100_000, 100_000),
        "bmp_too_large": lambda i: bmp_with_size(encode(i, "BMP"), 40_000, 40_000),
        "webp_too_large": lambda i: vp8x(
            encode(i, "WEBP", lossless=True, exif=exif(1)), canvas=(1 << 24, 1 << 24)
        ),
        "gif_too_large": lambda i: gif_on_canvas(i, canvas=(65_000, 65_000)),
        "tiff_too_large": lambda i: tiff_with_size(encode(i, "TIFF"), 100_000, 100_000),
    }  # fmt: skip
    for bits in (1, 2, 4, 8, 16):
        for interlaced in (False, True):
            name = f"{bits}{'_interlaced' if interlaced else ''}"
            modes = ["gray"] + ["palette"] * (bits <= 8)
            modes += ["color", "gray_alpha", "alpha"] * (bits >= 8)
            for mode in modes:
                files[f"png_{mode}_{name}"] = (
                    lambda i, args=(mode, bits, interlaced): png_of(i, *args)
                )  # fmt: skip
    for bits in (1, 4, 8, 16, 24, 32):
        files[f"bmp_{bits}"] = lambda i, bits=bits: bmp(i, bits)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        name = f"tiff_{compression.removeprefix('tiff_').removeprefix('adobe_')}"
        files[name] = lambda i, c=compression: encode(i, "TIFF", compression=c)
    for orientation in range(2, 9):
        files[f"jpeg_turned_{orientation}"] = (
            lambda i, o=orientation: encode(i, "JPEG", exif=exif(o))
        )  # fmt: skip
    if register_heic():
        files["heic"] = lambda i: encode(i, "HEIF", quality=90)
        files["heic_alpha"] = lambda i: encode(with_alpha(i), "HEIF", quality=90)
        files["heic_turned"] = lambda i: encode(i, "HEIF", quality=90, exif=exif(6))
    return files


def png_with_size(data, width, height):
    header = struct.pack(">II", width, height) + data[24:29]
    return data[:8] + png_chunk(b"IHDR", header) + data[33:]


def bmp_with_size(data, width, height):
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def tiff_with_size(data, width, height):
    """Change the size in the directory of a little-endian TIFF."""
    data = bytearray(data)
    [directory] = struct.unpack("<I", data[4:8])
    [count] = struct.unpack("<H", data[directory : directory + 2])
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        [tag] = struct.unpack("<H", data[entry : entry + 2])
        if tag in (256, 257):
            value = width if tag == 256 else height
            data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, value)
    return bytes(data)


FILES = _files()


def make(name):
    """Return the bytes of one file of the zoo."""
    return FILES[name](photograph())
