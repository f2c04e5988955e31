"""Reads kind, size and orientation of an image file from its header.

This comes before any native decoder sees the bytes; what is read follows the table in `formats`.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.imaging import formats
from tfdetect.imaging.formats import (
    LARGE_PALETTE,
    MAX_CHUNKS,
    MAX_METADATA,
    MAX_SEGMENTS,
    Header,
    ImageError,
    Kind,
    check_size,
    read_bytes,
)

_CHECKED_CHUNKS = 100_000  # of a PNG; those behind are not checked

# Formats that are recognized to be refused by name.
_OTHERS = (
    (rb"\x00\x00[\x01\x02]\x00[^\x00]\x00", "ICO"), (rb"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (rb"\xff\x4f\xff\x51", "JPEG 2000"), (rb"\xff\x0a", "JPEG XL"),
    (rb"\x00\x00\x00\x0cJXL ", "JPEG XL"), (rb"II\xbc", "JPEG XR"), (rb"8BPS", "Photoshop"),
    (rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]", "PCX"), (rb"\x01\xda[\x00\x01][\x01\x02]", "SGI"),
    (rb"DDS ", "DDS"), (rb"\x76\x2f\x31\x01", "OpenEXR"), (rb"#\?R", "Radiance HDR"),
    (rb"P7\s", "PAM"), (rb"gimp xcf", "XCF"), (rb"qoif", "QOI"), (rb"SIMPLE  =", "FITS"),
    (rb"%PDF", "PDF"), (rb"%!PS", "PostScript"), (rb"\s*(?:<\?xml[^>]*>\s*)?<(?:!|svg)", "SVG"),
    (rb"RIFF....AVI ", "video"), (rb"\x1a\x45\xdf\xa3", "video"),
)  # fmt: skip


def admitted(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Return the header of a file that may be decoded.

    Args:
        data: the whole file.
        max_pixels: images with more pixels are refused.

    Raises:
        ImageError: The file is refused.
    """
    header = read_header(data)
    if header.kind.decoder is None:
        raise ImageError(header.kind.reason)
    check_size(header.width, header.height, max_pixels)
    return header


def size_of(path: str | Path) -> tuple[int, int]:
    """Return the upright width and height of an image file in pixels, from its header.

    Raises:
        ImageError: The file is refused.
    """
    return admitted(read_bytes(path)).upright


def read_header(data: bytes) -> Header:
    """Return what the header of an image file says.

    Args:
        data: the whole file.

    Raises:
        ImageError: It is not an image, of a format that is not supported, or damaged.
    """
    if not data:
        raise ImageError("empty file")
    for pattern, read in _READERS:
        if re.match(pattern, data, re.S):
            try:
                return read(data)
            except (struct.error, LookupError, ValueError, OverflowError) as error:
                raise ImageError("damaged: its header is cut off or invalid") from error
    for pattern, name in _OTHERS:
        if re.match(pattern, data[:200], re.S):
            raise ImageError(f"{name} is not supported: convert it to PNG")
    if data[-18:-2] == b"TRUEVISION-XFILE":
        raise ImageError("TGA is not supported: convert it to PNG")
    raise ImageError("not an image")


def _jpeg(data: bytes) -> Header:
    exif, xmp, frame, position = b"", b"", None, 2
    for marker, start, length in _jpeg_segments(data):
        position = start + max(length, 0)
        part = data[start : start + min(length, MAX_METADATA)]
        if marker == 0xE1 and not exif and part.startswith(b"Exif\0\0"):
            exif = part
        elif marker == 0xE1 and not xmp and part.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = part
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and frame is None:
            frame = marker, *struct.unpack(">BHHB", part[:6])
    if frame is None:
        raise ValueError("no frame")
    if data.rfind(b"\xff\xd9", position) < 0:
        raise ImageError("damaged: it ends before its end marker")
    marker, bits, height, width, components = frame
    kind = _jpeg_kind(marker, bits, components)
    return Header(kind, width, height, orientation_of(exif, xmp))


def _jpeg_kind(marker: int, bits: int, components: int) -> Kind:
    if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        return formats.LOSSLESS_JPEG
    if bits != 8:
        return formats.DEEP_JPEG
    if components == 4:
        return formats.CMYK
    return formats.JPEG if components in (1, 3) else formats.ODD_COLORS


_NO_METADATA = 0xFE  # the marker of a comment


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and length of the content of each segment before the first scan.

    Decoders skip bytes between segments that are none, and so do frames here. Metadata behind such
    bytes do not count.
    """
    position, is_whole = 2, True
    for _ in range(MAX_SEGMENTS):
        if data[position] != 0xFF or data[position + 1] == 0:
            position, is_whole = data.index(b"\xff", position + 1), False
            continue
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in (0xD9, 0xDA):
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            position, is_whole = position + 2, False
            continue
        if not is_whole and 0xE0 <= marker <= 0xEF:
            marker = _NO_METADATA
        [length] = struct.unpack(">H", data[position + 2 : position + 4])
        yield marker, position + 4, length - 2
        position += 2 + max(length, 2)


_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def _png(data: bytes) -> Header:
    width, height, bits, color = struct.unpack(">IIBB", data[16:26])
    if data[12:16] != b"IHDR" or bits not in _PNG_DEPTHS.get(color, ()):
        raise ValueError("no valid header")
    exif, xmp, compressed = _png_metadata(data) if _PNG_METADATA.search(data) else (b"", b"", False)
    kind = formats.ODD_PNG if compressed else formats.PNG
    return Header(kind, width, height, orientation_of(exif, xmp), _broken_chunks(data))


def _broken_chunks(data: bytes) -> tuple[tuple[int, int], ...]:
    """Return start and end of each ancillary chunk with a wrong checksum, which libpng ignores.

    Raises:
        ImageError: The chunks do not go on to the end of the image, or one that is needed to decode
            it has a wrong checksum.
    """
    at, found = 8, []
    for _ in range(_CHECKED_CHUNKS):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        stop = at + 12 + length
        if stop > len(data) or not kind.isalpha():
            raise ImageError("damaged: it ends before its last chunk")
        [checksum] = struct.unpack(">I", data[stop - 4 : stop])
        if zlib.crc32(memoryview(data)[at + 4 : stop - 4]) != checksum:
            if kind[:1].isupper():
                raise ImageError(f"damaged: wrong checksum of a chunk ({kind.decode()})")
            found.append((at, stop))
        if kind == b"IEND":
            break
        at = stop
    return tuple(found)


_PNG_METADATA = re.compile(rb"eXIf|Raw profile type exif|XML:com\.adobe\.xmp")


def _png_metadata(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return EXIF, from its chunk or from ImageMagick's text, XMP, and whether one is compressed.

    The first chunk of each kind counts.
    """
    found: dict[bytes, bytes] = {}
    for kind, start, length in _chunks(data, 8, ">I4s", trailer=4):
        part = data[start : start + min(length, MAX_METADATA)]
        if kind == b"IEND":
            break
        if kind == b"eXIf":
            found.setdefault(b"eXIf", part)
        elif kind in (b"tEXt", b"zTXt") and part.startswith(b"Raw profile type exif\0"):
            found.setdefault(b"profile", kind[:1] + part[22:])
        elif kind == b"iTXt" and part.startswith(b"XML:com.adobe.xmp\0"):
            found.setdefault(b"XMP", part[18:])
    exif, profile, xmp = (found.get(name, b"") for name in (b"eXIf", b"profile", b"XMP"))
    compressed = (not exif and profile[:1] == b"z") or xmp[:1] == b"\1"
    if not exif and profile:
        text = _inflate(profile[2:]) if profile[:1] == b"z" else profile[1:]
        digits = re.sub(rb"[^0-9a-fA-F]", b"", b"".join(text.split(b"\n")[3:]))
        exif = bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
    if xmp[:1] == b"\1":
        xmp = _inflate(xmp[2:].split(b"\0", 2)[-1])
    return exif, xmp, compressed


def _inflate(data: bytes) -> bytes:
    """Return the first `MAX_METADATA` bytes of a compressed text; as far as it is valid."""
    try:
        return zlib.decompressobj().decompress(data, MAX_METADATA)
    except zlib.error:
        return b""


def _chunks(
    data: bytes, position: int, layout: str, trailer: int, padded: bool = False
) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and length of each chunk of a PNG or a RIFF file."""
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            return
        fields = struct.unpack(layout, data[position : position + 8])
        kind, length = fields if isinstance(fields[0], bytes) else fields[::-1]
        yield kind, position + 8, length
        position += 8 + length + trailer + (length % 2 if padded else 0)


def _webp(data: bytes) -> Header:
    first, flags = data[12:16], data[20]
    if first == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        if len(data) < 30:
            raise ValueError("cut off")
        kind = formats.ANIMATED_WEBP if flags & 2 else formats.WEBP
        return Header(kind, width, height, _webp_orientation(data))
    if first == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    elif first == b"VP8L" and data[20] == 0x2F:
        [sides] = struct.unpack("<I", data[21:25])
        width, height = 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
    else:
        raise ValueError("no valid header")
    return Header(formats.WEBP, width, height)


def _webp_orientation(data: bytes) -> int:
    exif = xmp = b""
    [size] = struct.unpack("<I", data[4:8])
    for kind, start, length in _chunks(data, 12, "<4sI", trailer=0, padded=True):
        if start + length > min(len(data), 8 + size):
            raise ValueError("a chunk is cut off")
        part = data[start : start + min(length, MAX_METADATA)]
        exif = part if kind == b"EXIF" and not exif else exif
        xmp = part if kind == b"XMP " and not xmp else xmp
    return orientation_of(exif, xmp)


def _bmp(data: bytes) -> Header:
    start, size = struct.unpack("<II", data[10:18])
    if size == 12:
        width, height = struct.unpack("<HH", data[18:22])
        return Header(formats.ODD_BMP, width, height)
    width, height, _, bits, compression = struct.unpack("<iiHHI", data[18:34])
    if size not in (40, 52, 56, 64, 108, 124):
        raise ValueError("unknown header")
    plain = size != 64 and bits in (8, 24, 32) and compression == 0
    row = (width * bits + 31) // 32 * 4
    if plain and start + row * abs(height) > len(data):
        raise ImageError("damaged: it ends before its last row")
    if plain and bits == 8 and int.from_bytes(data[46:50], "little") > 256:
        raise ImageError(LARGE_PALETTE)
    return Header(formats.BMP if plain else formats.ODD_BMP, width, abs(height))


def _gif(data: bytes) -> Header:
    width, height = struct.unpack("<HH", data[6:10])
    return Header(formats.GIF, width, height)


# Tags of TIFF.
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COLORS = 254, 256, 257, 258, 262
_ORIENTATION, _CHANNELS, _TILE_WIDTH, _TILE_HEIGHT = 274, 277, 322, 323
_RAW_TAGS = {50706, 33421}  # DNGVersion, CFARepeatPatternDim
_FILTER_ARRAY = 32803  # a value of _COLORS
_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of struct, by the type of a tag: whole numbers


def _tiff(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    if data[8:10] == b"CR" and order == "<":
        return Header(formats.RAW, 1, 1)
    tags = _tiff_tags(data, order, big=data[2:4] in (b"+\0", b"\0+"))
    width, height = tags[_WIDTH], tags[_HEIGHT]
    reduced = tags.get(_SUBFILE, 0) & 1
    if _RAW_TAGS & tags.keys() or tags.get(_COLORS) == _FILTER_ARRAY or reduced:
        return Header(formats.RAW, width, height)
    if tags.get(_BITS, 1) > 16:
        return Header(formats.DEEP_TIFF, width, height)
    # A tile, or a strip, is decoded whole, however small the image is.
    if _TILE_WIDTH in tags or _TILE_HEIGHT in tags:
        check_size(tags[_TILE_WIDTH], tags[_TILE_HEIGHT], max(4 * width * height, 2**24))
    if tags.get(_CHANNELS, 1) > 8:
        raise ImageError(f"{tags[_CHANNELS]} channels are more than 8")
    turn = tags.get(_ORIENTATION, 1)
    return Header(formats.TIFF, width, height, turn if 1 <= turn <= 8 else 1)


def _tiff_tags(data: bytes, order: str, big: bool) -> dict[int, int]:
    """Return the first value of each tag with whole numbers of the first directory.

    Args:
        data: the whole file.
        order: "<" or ">", the order of bytes.
        big: whether it is a BigTIFF, whose offsets have 64 bits.
    """
    offset, counter = (f"{order}Q", f"{order}Q") if big else (f"{order}I", f"{order}H")
    inline = struct.calcsize(offset)  # bytes of a value that fits into the entry itself
    [directory] = struct.unpack_from(offset, data, inline)
    [count] = struct.unpack_from(counter, data, directory)
    first, size = directory + struct.calcsize(counter), 4 + 2 * inline
    tags: dict[int, int] = {}
    for entry in range(first, first + size * min(count, 1_000), size):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if kind not in _CODES:
            continue
        code = order + _CODES[kind]
        [number] = struct.unpack_from(offset, data, entry + 4)
        at = entry + 4 + inline
        if number * struct.calcsize(code) > inline:
            [at] = struct.unpack_from(offset, data, at)
        [value] = struct.unpack_from(code, data, at)
        tags.setdefault(tag, value)
    return tags


_TOKEN = re.compile(rb"(?:\s|#[^\n]*\n)*(\d{1,10})")


def _pnm(data: bytes) -> Header:
    head = data[:MAX_METADATA]
    first = _TOKEN.match(head, 2)
    second = first and _TOKEN.match(head, first.end())
    if not first or not second:
        raise ValueError("no size")
    return Header(formats.PNM, int(first[1]), int(second[1]))


def _pfm(data: bytes) -> Header:
    return Header(formats.PFM, 1, 1)


_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"}
_MAX_BOXES = 10_000


def _heif(data: bytes) -> Header:
    [length] = struct.unpack(">I", data[:4])
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(length, 4_096), 4))}
    if not brands & (_AVIF_BRANDS | _HEIF_BRANDS):
        raise ImageError("a video is not an image")
    kind = formats.AVIF if brands & _AVIF_BRANDS else formats.HEIF
    # The image, its tiles and its thumbnail each have a size; none may be too large.
    sizes = list(_boxes(data, 0, len(data), [_MAX_BOXES]))
    if not sizes:
        raise ValueError("no size")
    return Header(kind, *max(sizes, key=lambda size: size[0] * size[1]))


def _boxes(data: bytes, start: int, end: int, left: list[int]) -> Iterator[tuple[int, int]]:
    """Yield width and height of each property `ispe` and each track below a range of boxes."""
    while start + 8 <= end:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("too many boxes")
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        content = start + 8
        if length == 1:
            [length] = struct.unpack(">Q", data[content : content + 8])
            content += 8
        stop = end if length == 0 else start + length
        if stop > end or stop < content:
            return
        if kind == b"ispe":
            yield struct.unpack(">II", data[content + 4 : content + 12])
        elif kind in (b"meta", b"iprp", b"ipco", b"moov", b"trak"):
            yield from _boxes(data, content + 4 * (kind == b"meta"), stop, left)
        elif kind == b"tkhd":
            width, height = struct.unpack(">II", data[stop - 8 : stop])
            yield width >> 16, height >> 16
        start = stop


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """Return the orientation, 1 to 8, that EXIF names or, where it names none, XMP.

    Args:
        exif: the EXIF data, with or without the mark that precedes it in JPEG; may be empty or
            damaged.
        xmp: may be empty or damaged.
    """
    found = _exif_orientation(exif)
    if not found and (named := _XMP_ORIENTATION.search(xmp)):
        found = int(named[1])
    return found or 1


_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)([1-8])")


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation that EXIF names, 1 to 8, or 0."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 0
    [directory] = struct.unpack(f"{order}I", tiff[4:8])
    if directory + 2 > len(tiff):
        return 0
    [count] = struct.unpack(f"{order}H", tiff[directory : directory + 2])
    for entry in range(directory + 2, directory + 2 + 12 * min(count, 512), 12):
        if entry + 12 > len(tiff):
            return 0
        tag, kind = struct.unpack(f"{order}HH", tiff[entry : entry + 4])
        if tag == 0x0112:
            code = "I" if kind == 4 else "H"
            [value] = struct.unpack_from(f"{order}{code}", tiff, entry + 8)
            return value if 1 <= value <= 8 else 0
    return 0


# Tried in this order, each on the first bytes.
_READERS: tuple[tuple[bytes, Callable[[bytes], Header]], ...] = (
    (rb"\xff\xd8\xff", _jpeg), (rb"\x89PNG\r\n\x1a\n", _png), (rb"RIFF....WEBP", _webp),
    (rb"BM", _bmp), (rb"GIF8[79]a", _gif), (rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+", _tiff),
    (rb"....ftyp", _heif), (rb"P[1-6][\s#]", _pnm), (rb"P[Ff]\s", _pfm),
)  # fmt: skip
