"""Decodes images in a graph without Python, as that of a SavedModel.

It reads the headers in the graph as `formats` does in Python. That is a thousand operations, which
take a second to prepare for each iterator; `read.decode_any`, which can call Python, has few.
"""

from collections.abc import Callable
from functools import cache

import tensorflow as tf

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.imaging.decode import (
    Special,
    decode,
    decode_jpeg,
    decode_png,
    decode_webp,
    is_jpeg_png_webp_bmp,
    may_have_jpeg_metadata,
    may_have_png_metadata,
    refuse,
    turn,
)
from tfdetect.imaging.formats import (
    ANIMATED_WEBP,
    CMYK,
    LARGE_PALETTE,
    MAX_CHUNKS,
    MAX_METADATA,
    MAX_SEGMENTS,
    MAX_SIDE,
    ODD_BMP,
    ODD_PNG,
)
from tfdetect.imaging.graph import rare_branch

_OTHER_FORMAT = "not a JPEG, PNG or BMP: convert to PNG"
_CUT_CHUNK = "damaged: a chunk is cut off"
_NO_WEBP = "WebP is not decoded here: convert to PNG, or export saved_model_webp"


def decode_in_graph(data: tf.Tensor, max_pixels: int = MAX_PIXELS, webp: bool = True) -> tf.Tensor:
    """Decode an image of a kind that the table gives to the graph, as `read.decode_any` does.

    Args:
        data: scalar string, the bytes of the file.
        max_pixels: images with more pixels are refused before they are decoded.
        webp: whether WebP is decoded, for which TensorFlow before 2.20 has no operation.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: The table refuses the file, or it is damaged.
    """
    return decode(data, max_pixels, _special(max_pixels, webp))


@cache  # so that it is traced once
def _special(max_pixels: int, webp: bool) -> Special:
    @rare_branch
    def special(data: tf.Tensor) -> tf.Tensor:
        reason, orientation = _examination(max_pixels, webp)(data)
        return tf.cond(
            reason == b"", lambda: turn(_native(data, webp), orientation), lambda: refuse(reason)
        )

    return special


def refusal(data: tf.Tensor, max_pixels: int = MAX_PIXELS, webp: bool = True) -> tf.Tensor:
    """Return why `decode_in_graph` refuses a file by its header, scalar string; "" if it does not.

    Raises:
        tf.errors.InvalidArgumentError: The header is damaged.
    """
    return _examination(max_pixels, webp)(data)[0]


@cache  # so that it is traced once
def _examination(max_pixels: int, webp: bool) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    @rare_branch
    def examine(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _examine(data, max_pixels, webp)

    return examine


def _examine(data: tf.Tensor, max_pixels: int, webp: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Return why the graph does not decode a file, "" if it does, and its orientation, int32."""
    is_jpeg, is_png, is_webp, is_bmp = is_jpeg_png_webp_bmp(data)
    no_webp = tf.constant(_NO_WEBP), tf.constant(1)
    return tf.case(
        [
            (is_jpeg, lambda: _examine_jpeg(data, max_pixels)),
            (is_png, lambda: _examine_png(data, max_pixels)),
            (is_webp, lambda: _examine_webp(data, max_pixels) if webp else no_webp),
            (is_bmp, lambda: _examine_bmp(data, max_pixels)),
        ],
        default=lambda: (tf.constant(_OTHER_FORMAT), tf.constant(1)),
    )


def _native(data: tf.Tensor, webp: bool) -> tf.Tensor:
    """Decode a file that was examined, as it is stored."""
    is_jpeg, _, is_webp, is_bmp = is_jpeg_png_webp_bmp(data)
    cases = [(is_jpeg, lambda: decode_jpeg(data)), (is_bmp, lambda: _decode_bmp(data))]
    if webp:
        cases.append((is_webp, lambda: decode_webp(data)))
    return tf.case(cases, default=lambda: decode_png(data))


def _size_reason(width: tf.Tensor, height: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Return why an image of this size is refused; `formats.check_size` refuses the same."""
    width, height = (tf.cast(side, tf.int64) for side in (width, height))
    text = [tf.strings.as_string(side) for side in (width, height)]
    many = tf.strings.join([text[0], " x ", text[1], f" pixels are more than {max_pixels:,} "
                            "(max_pixels)"])  # fmt: skip
    long = f"a side is longer than {MAX_SIDE:,} pixels"
    empty = tf.strings.join(["damaged: its size is ", text[0], " x ", text[1], " pixels"])
    is_long = tf.maximum(width, height) > MAX_SIDE  # also keeps the product in range
    is_large = width * height > max_pixels
    reason = tf.where(is_long, long, tf.where(is_large, many, ""))
    return tf.where(tf.minimum(width, height) < 1, empty, reason)


def _examine_jpeg(data: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    height, width, channels = tf.unstack(tf.io.extract_jpeg_shape(data))
    reason = _size_reason(width, height, max_pixels)
    odd = (channels != 1) & (channels != 3)
    reason = tf.where(odd & (reason == b""), CMYK.graph_reason, reason)
    orientation = tf.cond(
        may_have_jpeg_metadata(data), lambda: _jpeg_orientation(data), lambda: tf.constant(1)
    )
    return reason, orientation


def _examine_png(data: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    reason = _size_reason(_big_endian(data, 16), _big_endian(data, 20), max_pixels)
    has = may_have_png_metadata(data)
    compressed, orientation = tf.cond(
        has, lambda: _png_orientation(data), lambda: (tf.constant(False), tf.constant(1))
    )
    return tf.where(compressed & (reason == b""), ODD_PNG.graph_reason, reason), orientation


def _examine_webp(data: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    kind = tf.strings.substr(data, 12, 4)

    def extended() -> tuple[tf.Tensor, tf.Tensor]:
        return 1 + _number(data, 24, 3), 1 + _number(data, 27, 3)

    def lossless() -> tuple[tf.Tensor, tf.Tensor]:
        low, high = _number(data, 21, 2), _number(data, 23, 2)
        return 1 + low % 16_384, 1 + low // 16_384 + high % 4_096 * 4

    def lossy() -> tuple[tf.Tensor, tf.Tensor]:
        return _number(data, 26, 2) % 16_384, _number(data, 28, 2) % 16_384

    cases = [(kind == b"VP8X", extended), (kind == b"VP8L", lossless), (kind == b"VP8 ", lossy)]
    width, height = tf.case(cases, default=lambda: (tf.constant(0), tf.constant(0)))
    reason = _size_reason(width, height, max_pixels)
    # With several frames and no alpha, TensorFlow's decoder writes beyond its buffer.
    animated = (kind == b"VP8X") & (_number(data, 20, 1) // 2 % 2 == 1)
    reason = tf.where(animated & (reason == b""), ANIMATED_WEBP.graph_reason, reason)
    is_cut, orientation = tf.cond(
        kind == b"VP8X",
        lambda: _webp_orientation(data),
        lambda: (tf.constant(False), tf.constant(1)),
    )
    return tf.where(is_cut & (reason == b""), _CUT_CHUNK, reason), orientation


def _examine_bmp(data: tf.Tensor, max_pixels: int) -> tuple[tf.Tensor, tf.Tensor]:
    header, bits, compression = _number(data, 14, 4), _number(data, 28, 2), _number(data, 30, 4)
    known = tf.reduce_any(header == tf.constant([40, 52, 56, 108, 124]))
    plain = known & tf.reduce_any(bits == tf.constant([8, 24, 32])) & (compression == 0)
    width, height = (tf.cast(_number(data, at, 4), tf.int64) for at in (18, 22))
    reason = _size_reason(width, tf.abs(height), max_pixels)
    row = (width * tf.cast(bits, tf.int64) + 31) // 32 * 4
    end = tf.cast(_number(data, 10, 4), tf.int64) + row * tf.abs(height)
    is_cut = plain & (end > tf.cast(tf.strings.length(data), tf.int64))
    reason = tf.where(is_cut & (reason == b""), "damaged: it ends before its last row", reason)
    colors = tf.bitcast(_number(data, 46, 4), tf.uint32)
    is_large = (bits == 8) & (tf.cast(colors, tf.int64) > 256)
    reason = tf.where(is_large & (reason == b""), LARGE_PALETTE, reason)
    return tf.where(plain, reason, ODD_BMP.graph_reason), tf.constant(1)


def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    has_palette = _number(data, 28, 2) == 8
    return tf.cond(
        has_palette,
        lambda: _colors(data, tf.io.decode_bmp(data)),
        lambda: tf.io.decode_bmp(data)[..., :3],
    )


def _colors(data: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Return the colors of palette indices uint8 [H, W, 1], which TensorFlow's decoder gives."""
    start = 14 + _number(data, 14, 4)
    count = _number(data, 46, 4)
    count = tf.where(count == 0, 256, count)
    entries = tf.io.decode_raw(_piece(data, start, 4 * count), tf.uint8)
    palette = tf.reshape(entries[: tf.size(entries) // 4 * 4], [-1, 4])[:, 2::-1]  # stored as BGR
    palette = tf.pad(palette, [[0, 256 - tf.shape(palette)[0]], [0, 0]])
    return tf.gather(palette, tf.cast(indices[..., 0], tf.int32))


def _piece(data: tf.Tensor, start: tf.Tensor | int, length: tf.Tensor | int) -> tf.Tensor:
    """Return some bytes, fewer at the end, where `substr` fails."""
    start = tf.clip_by_value(start, 0, tf.strings.length(data))
    return tf.strings.substr(data, start, length)


def _bytes(data: tf.Tensor, start: tf.Tensor | int, length: int) -> tf.Tensor:
    """Return some bytes, int32 [length]; 0 beyond the end."""
    piece = tf.strings.join([_piece(data, start, length), b"\0" * length])
    return tf.ensure_shape(tf.cast(tf.io.decode_raw(piece, tf.uint8)[:length], tf.int32), [length])


def _number(data: tf.Tensor, start: tf.Tensor | int, width: int) -> tf.Tensor:
    """Return a little-endian number of 1 to 4 bytes, int32; 0 or too small beyond the end."""
    if width < 4:
        return tf.reduce_sum(_bytes(data, start, width) * tf.constant([1, 256, 65_536][:width]))
    piece = tf.strings.join([_piece(data, start, 4), b"\0\0\0\0"])
    return tf.io.decode_raw(tf.strings.substr(piece, 0, 4), tf.int32)[0]


def _big_endian(data: tf.Tensor, start: tf.Tensor | int) -> tf.Tensor:
    """Return a big-endian number of 4 bytes, int64; 0 or too small beyond the end."""
    powers = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
    return tf.reduce_sum(tf.cast(_bytes(data, start, 4), tf.int64) * powers)


_EXIF_MARK = b"Exif\0\0"
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_SEGMENT_START = 32  # bytes that are looked at; a segment that turns an image has as many
_XMP_START = 28  # bytes of the mark that are compared


@rare_branch
def _jpeg_orientation(data: tf.Tensor) -> tf.Tensor:
    """Return the orientation that the first EXIF segment or, without one, XMP names."""
    at, number, exif, xmp = _walk_segments(data, 2, 0, -1)

    def without_exif() -> tf.Tensor:
        _, _, _, late = tf.cond(
            exif < 0, lambda: (at, number, exif, xmp), lambda: _walk_segments(data, at, number, xmp)
        )
        return tf.cond(
            late < 0, lambda: tf.constant(1), lambda: _xmp_orientation(_segment(data, late))
        )

    named = tf.cond(
        exif < 0, lambda: tf.constant(0), lambda: _exif_orientation(_segment(data, exif))
    )
    return tf.cond(named > 0, lambda: named, without_exif)


def _segment(data: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Return the content of a segment of a JPEG, at most the bytes that are searched."""
    high, low = tf.unstack(_bytes(data, at + 2, 2))
    return _piece(data, at + 4, tf.clip_by_value(256 * high + low - 2, 0, MAX_METADATA))


def _chunk(data: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Return the content of a chunk of a WebP, at most the bytes that are searched."""
    size = tf.bitcast(_number(data, at + 4, 4), tf.uint32)
    return _piece(
        data, at + 8, tf.cast(tf.minimum(tf.cast(size, tf.int64), MAX_METADATA), tf.int32)
    )


def _big_endian_words(piece: tf.Tensor) -> tf.Tensor:
    words = tf.io.decode_raw(piece, tf.uint16, little_endian=False)
    return tf.ensure_shape(words, [_SEGMENT_START // 2])


def _walk_segments(
    data: tf.Tensor, start: tf.Tensor | int, count: tf.Tensor | int, found: tf.Tensor | int
) -> tuple[tf.Tensor, ...]:
    """Walk the segments of a JPEG up to its first EXIF segment or its first scan.

    Args:
        start: position of the first segment.
        count: number of segments before it.
        found: position of the first XMP segment before it, or -1.

    Returns:
        int32 scalars: the next position, the number of segments, and the positions of the first
        EXIF and of the first XMP segment, or -1.
    """

    last = tf.strings.length(data) - _SEGMENT_START

    def goes_on(at: tf.Tensor, number: tf.Tensor, exif: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return (at >= 0) & (at <= last) & (exif < 0) & (number < MAX_SEGMENTS)

    def advance(at: tf.Tensor, number: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor) -> tuple:
        piece = tf.strings.substr(data, at, _SEGMENT_START)
        marker, length = tf.unstack(tf.cast(_big_endian_words(piece), tf.int32)[:2])
        is_segment = (marker >= 0xFFC0) & ((marker < 0xFFD0) | (marker > 0xFFDA))
        step = tf.where(marker == 0xFFFF, 1, 2 + tf.maximum(length, 2))  # a fill byte
        is_app1 = marker == 0xFFE1
        is_exif = is_app1 & (tf.strings.substr(piece, 4, len(_EXIF_MARK)) == _EXIF_MARK)
        is_xmp = is_app1 & (tf.strings.substr(piece, 4, _XMP_START) == _XMP_MARK[:_XMP_START])
        is_xmp &= xmp < 0
        return (
            tf.where(is_segment, at + step, -1), number + 1, tf.where(is_exif, at, exif),
            tf.where(is_xmp, at, xmp),
        )  # fmt: skip

    start, count, found = (tf.convert_to_tensor(x, tf.int32) for x in (start, count, found))
    return tuple(tf.while_loop(goes_on, advance, [start, count, tf.constant(-1), found]))


@rare_branch
def _png_orientation(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return whether metadata are compressed and not read here, and the orientation."""
    length = tf.strings.length(data)

    def goes_on(at: tf.Tensor, number: tf.Tensor, *_found: tf.Tensor) -> tf.Tensor:
        return (at + 8 <= length) & (number < MAX_CHUNKS)

    def advance(at: tf.Tensor, number: tf.Tensor, exif: tf.Tensor, profile: tf.Tensor,
                xmp: tf.Tensor) -> tuple[tf.Tensor, ...]:  # fmt: skip
        size = _big_endian(data, at)
        kind, name = _piece(data, at + 4, 4), _piece(data, at + 8, 22)
        is_profile = (kind == b"tEXt") | (kind == b"zTXt")
        is_profile &= name == b"Raw profile type exif\0"
        is_xmp = (kind == b"iTXt") & (tf.strings.substr(name, 0, 18) == b"XML:com.adobe.xmp\0")
        after = tf.minimum(tf.cast(at, tf.int64) + 12 + size, tf.cast(length, tf.int64))
        return (
            tf.where(kind == b"IEND", length, tf.cast(after, tf.int32)), number + 1,
            tf.where((kind == b"eXIf") & (exif < 0), at, exif),
            tf.where(is_profile & (profile < 0), at, profile),
            tf.where(is_xmp & (xmp < 0), at, xmp),
        )  # fmt: skip

    start = [tf.constant(8), tf.constant(0), *(tf.constant(-1) for _ in range(3))]
    _, _, exif, profile, xmp = tf.while_loop(goes_on, advance, start)
    packed_profile = (exif < 0) & (profile >= 0) & (_piece(data, profile + 4, 4) == b"zTXt")
    packed_xmp = (xmp >= 0) & (_piece(data, xmp + 26, 1) == b"\1")

    def content(at: tf.Tensor, skipped: int = 0) -> tf.Tensor:
        size = tf.minimum(_big_endian(data, at), MAX_METADATA)
        size = tf.maximum(tf.cast(size, tf.int32) - skipped, 0)
        return tf.cond(at < 0, lambda: "", lambda: _piece(data, at + 8 + skipped, size))

    named = _exif_orientation(
        tf.cond(exif < 0, lambda: _from_hex(content(profile, 22)), lambda: content(exif))
    )
    orientation = tf.cond(named > 0, lambda: named, lambda: _xmp_orientation(content(xmp)))
    return packed_profile | packed_xmp, orientation


def _from_hex(text: tf.Tensor) -> tf.Tensor:
    """Return the bytes that ImageMagick's text holds: three lines, then hexadecimal digits."""
    digits = tf.strings.regex_replace(text, rb"^(?:[^\n]*\n){3}", b"")
    digits = tf.where(tf.strings.regex_full_match(text, rb"(?:[^\n]*\n){3}\C*"), digits, b"")
    digits = tf.strings.regex_replace(digits, rb"[^0-9a-fA-F]", b"")
    codes = tf.cast(tf.io.decode_raw(digits, tf.uint8), tf.int32)
    values = codes % 16 + 9 * (codes // 64)
    pairs = tf.reshape(values[: tf.size(values) // 2 * 2], [-1, 2])
    return tf.strings.reduce_join(tf.gather(_ALL_BYTES, 16 * pairs[:, 0] + pairs[:, 1]))


_ALL_BYTES = [bytes([value]) for value in range(256)]


@rare_branch
def _webp_orientation(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return whether a chunk is cut off, and the orientation."""
    length = tf.strings.length(data)
    end = 8 + tf.cast(tf.bitcast(_number(data, 4, 4), tf.uint32), tf.int64)
    end = tf.minimum(end, tf.cast(length, tf.int64))

    def goes_on(at: tf.Tensor, number: tf.Tensor, *_found: tf.Tensor) -> tf.Tensor:
        return (at + 8 <= length) & (number < MAX_CHUNKS)

    def advance(
        at: tf.Tensor, number: tf.Tensor, is_cut: tf.Tensor, exif: tf.Tensor, xmp: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        kind, size = _piece(data, at, 4), tf.cast(_number(data, at + 4, 4), tf.int64)
        size = tf.where(size < 0, 2**32 + size, size)
        is_cut |= tf.cast(at, tf.int64) + 8 + size > end
        after = tf.minimum(tf.cast(at, tf.int64) + 8 + size + size % 2, tf.cast(length, tf.int64))
        return (
            tf.cast(after, tf.int32), number + 1, is_cut,
            tf.where((kind == b"EXIF") & (exif < 0), at, exif),
            tf.where((kind == b"XMP ") & (xmp < 0), at, xmp),
        )  # fmt: skip

    start = [tf.constant(12), tf.constant(0), tf.constant(False), tf.constant(-1), tf.constant(-1)]
    _, _, is_cut, exif, xmp = tf.while_loop(goes_on, advance, start)
    named = tf.cond(exif < 0, lambda: tf.constant(0), lambda: _exif_orientation(_chunk(data, exif)))
    return is_cut, tf.cond(
        (named > 0) | (xmp < 0),
        lambda: tf.maximum(named, 1),
        lambda: _xmp_orientation(_chunk(data, xmp)),
    )


def _xmp_orientation(xmp: tf.Tensor) -> tf.Tensor:
    """Return the orientation that XMP names, int32; 1 if it names none."""
    pattern = rb"tiff:Orientation(?:=[\"']|>)([1-8])"
    has = tf.strings.regex_full_match(xmp, rb"\C*?" + pattern + rb"\C*")
    return tf.cond(
        has,
        lambda: tf.strings.to_number(
            tf.strings.regex_replace(xmp, rb"^\C*?" + pattern + rb"\C*$", rb"\1"), tf.int32
        ),
        lambda: tf.constant(1),
    )


def _exif_orientation(exif: tf.Tensor) -> tf.Tensor:
    """Return the orientation that EXIF names, int32; 0 if it names none."""
    tiff = tf.strings.regex_replace(exif, rb"^Exif\x00\x00", b"", replace_global=False)
    order = tf.strings.substr(tiff, 0, 4)
    is_little = order == b"II*\0"
    raw = tf.cast(tf.io.decode_raw(tiff, tf.uint8), tf.int32)
    size = tf.size(raw)

    def number(offset: tf.Tensor, width: int) -> tf.Tensor:
        piece = tf.gather(raw, tf.clip_by_value(offset[..., None] + tf.range(width), 0, size - 1))
        ordered = tf.where(is_little, piece, piece[..., ::-1])
        if width == 2:
            return tf.reduce_sum(ordered * tf.constant([1, 256]), -1)
        # No offset and no orientation is as large as the fourth byte makes it.
        total = tf.reduce_sum(ordered[..., :3] * tf.constant([1, 256, 65_536]), -1)
        return tf.where(ordered[..., 3] > 0, 2**30, total)

    def read() -> tf.Tensor:
        directory = number(tf.constant(4), 4)
        count = tf.where(directory + 2 > size, 0, tf.minimum(number(directory, 2), 512))
        entries = directory + 2 + 12 * tf.range(count)
        entries = tf.boolean_mask(entries, entries + 12 <= size)
        tags, kinds = number(entries, 2), number(entries + 2, 2)
        values = tf.where(kinds == 4, number(entries + 8, 4), number(entries + 8, 2))
        found = tf.boolean_mask(values, tags == 0x0112)
        value = tf.cond(tf.size(found) > 0, lambda: found[0], lambda: 0)
        return tf.where((value >= 1) & (value <= 8), value, 0)

    is_tiff = (is_little | (order == b"MM\0*")) & (size >= 8)
    return tf.cond(is_tiff, read, lambda: tf.constant(0))
