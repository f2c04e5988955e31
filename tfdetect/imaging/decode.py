"""Decodes images in the graph, in the same way in training, prediction and export.

TensorFlow alone ignores EXIF orientation, refuses WebP with alpha or several frames at three
channels, and returns gray BMP with one channel, so `decode` wraps it.
"""

import tensorflow as tf

# EXIF orientation -> (transpose height and width, flip up-down, flip left-right),
# applied in this order.
_TURNS = (
    (False, False, False), (False, False, True), (False, True, True), (False, True, False),
    (True, False, False), (True, False, True), (True, True, True), (True, True, False),
)  # fmt: skip


# A branch that is not taken still costs a little for each of its operations; as a function that
# stays one, it costs one operation.
rare_branch = tf.function(autograph=False, experimental_attributes={"_noinline": True})


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG, PNG, WebP, BMP or GIF image (its first frame).

    Animated WebP, and BMP with run lengths, bit masks or 1, 4 or 16 bits, are refused here;
    `read.read_image` has Pillow convert them.

    Gray, palette and CMYK images are converted to RGB, alpha is dropped, 16-bit pixels keep
    their upper 8 bits, and EXIF orientation is applied.

    Args:
        data: scalar string, the bytes of the file.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: The format is none of these or of a refused kind, or the
            image is damaged.
    """
    head = tf.strings.substr(data, 0, 16)
    is_jpeg = tf.strings.substr(head, 0, 2) == b"\xff\xd8"
    image = tf.cond(is_jpeg, lambda: _jpeg(data), lambda: _other(data, head))
    return _apply_orientation(image, _orientation(data, is_jpeg))


def _jpeg(data: tf.Tensor) -> tf.Tensor:
    # The accurate inverse DCT is the one that Pillow's libjpeg uses too.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


@rare_branch
def _other(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    is_webp = tf.strings.substr(head, 8, 4) == b"WEBP"
    is_bmp = tf.strings.substr(head, 0, 2) == b"BM"
    return tf.case(
        [(is_webp, lambda: _webp(data)), (is_bmp, lambda: _bmp(data))],
        default=lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
        exclusive=True,
    )


def is_animated_webp(data: tf.Tensor) -> tf.Tensor:
    """Return whether a WebP says in its extended header that it has several frames.

    Args:
        data: scalar string, at least the first 21 bytes of the file.
    """
    is_extended = tf.strings.substr(data, 12, 4) == b"VP8X"
    return is_extended & (_byte(data, 20) // 2 % 2 == 1)


def is_plain_bmp(data: tf.Tensor) -> tf.Tensor:
    """Return whether TensorFlow decodes a BMP as Pillow does: 24 or 32 bits, uncompressed.

    Args:
        data: scalar string, at least the first 34 bytes of the file.
    """
    has_header = _number(data, 14, 4) >= 40  # older headers have other positions
    bits, compression = _number(data, 28, 2), _number(data, 30, 4)
    return has_header & ((bits == 24) | (bits == 32)) & (compression == 0)


def _webp(data: tf.Tensor) -> tf.Tensor:
    def still() -> tf.Tensor:
        return tf.io.decode_webp(data, channels=0)[0, ..., :3]  # of frames, of which it has one

    # With several frames and no alpha, TensorFlow's decoder writes beyond its buffer.
    return tf.cond(is_animated_webp(data), lambda: _refuse("animated WebP"), still)


def _bmp(data: tf.Tensor) -> tf.Tensor:
    has_palette = (_number(data, 14, 4) >= 40) & (_number(data, 28, 2) == 8)
    has_palette &= _number(data, 30, 4) == 0
    return tf.case(
        [
            (has_palette, lambda: _colors(data, tf.io.decode_bmp(data))),
            (is_plain_bmp(data), lambda: tf.io.decode_bmp(data)[..., :3]),
        ],
        default=lambda: _refuse("BMP of an unusual kind"),
        exclusive=True,
    )


def _refuse(kind: str) -> tf.Tensor:
    """Raise an InvalidArgumentError; a branch of its own, so that no decoder runs beside it."""
    with tf.control_dependencies([tf.debugging.Assert(False, [f"not decoded here: {kind}"])]):
        return tf.zeros([0, 0, 3], tf.uint8)


def _colors(data: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Return the colors of palette indices uint8 [H, W, 1], which TensorFlow's decoder gives."""
    start = 14 + _number(data, 14, 4)
    count = _number(data, 46, 4)
    count = tf.where((count == 0) | (count > 256), 256, count)
    entries = tf.io.decode_raw(tf.strings.substr(data, start, 4 * count), tf.uint8)
    palette = tf.reshape(entries[: tf.size(entries) // 4 * 4], [-1, 4])[:, 2::-1]  # stored as BGR
    palette = tf.pad(palette, [[0, 256 - tf.shape(palette)[0]], [0, 0]])
    return tf.gather(palette, tf.cast(indices[..., 0], tf.int32))


def _byte(data: tf.Tensor, offset: tf.Tensor | int) -> tf.Tensor:
    """Return one byte, int32; -1 beyond the end."""
    return tf.cond(
        tf.strings.length(data) > offset,
        lambda: tf.cast(tf.io.decode_raw(tf.strings.substr(data, offset, 1), tf.uint8)[0],
                        tf.int32),
        lambda: -1,
    )  # fmt: skip


def _number(data: tf.Tensor, offset: int, width: int) -> tf.Tensor:
    """Return a little-endian number of 2 or 4 bytes, int32; negative beyond the end."""
    kind = tf.uint16 if width == 2 else tf.int32
    return tf.cond(
        tf.strings.length(data) >= offset + width,
        lambda: tf.cast(tf.io.decode_raw(tf.strings.substr(data, offset, width), kind)[0],
                        tf.int32),
        lambda: -1,
    )  # fmt: skip


_SEARCHED = 65_536  # first bytes of a JPEG, among which EXIF usually is
_MAX_SEGMENTS = 1_000  # of a JPEG's header


def _orientation(data: tf.Tensor, is_jpeg: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation, int32 1 to 8; 1 if there is none."""
    # PNG and WebP keep EXIF in a chunk anywhere.
    searched = tf.cond(is_jpeg, lambda: tf.strings.substr(data, 0, _SEARCHED), lambda: data)
    has = tf.strings.regex_full_match(searched, rb"\C*(Exif\x00\x00|eXIf|EXIF)\C*")
    # Large color profiles and content credentials may precede EXIF.
    is_long = is_jpeg & (tf.strings.length(data) > _SEARCHED)

    return tf.cond(
        has | is_long, lambda: _read_exif(data, searched, has), lambda: tf.constant(1, tf.int32)
    )


@rare_branch
def _read_exif(data: tf.Tensor, searched: tf.Tensor, has: tf.Tensor) -> tf.Tensor:
    exif = tf.cond(has, lambda: searched, lambda: _exif_segment(data))
    return tf.cond(exif == "", lambda: tf.constant(1, tf.int32), lambda: _parse_orientation(exif))


def _exif_segment(data: tf.Tensor) -> tf.Tensor:
    """Return the APP1 segment with EXIF, at most 64 KiB; "" if there is none."""

    def marker(position: tf.Tensor) -> tf.Tensor:
        return tf.where(_byte(data, position) == 0xFF, _byte(data, position + 1), -1)

    def is_exif(position: tf.Tensor) -> tf.Tensor:
        return (marker(position) == 0xE1) & tf.cond(
            tf.strings.length(data) > position + 10,
            lambda: tf.strings.substr(data, position + 4, 6) == b"Exif\x00\x00",
            lambda: False,
        )

    def goes_on(position: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        # Frames, tables, comments and application segments; the scan ends the header.
        is_segment = (marker(position) >= 0xC0) & (marker(position) != 0xDA)
        return is_segment & ~is_exif(position) & (number < _MAX_SEGMENTS)

    def advance(position: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        length = 256 * _byte(data, position + 2) + _byte(data, position + 3)
        return position + 2 + tf.maximum(length, 2), number + 1

    position, _ = tf.while_loop(goes_on, advance, [tf.constant(2), tf.constant(0)])
    return tf.cond(
        is_exif(position), lambda: tf.strings.substr(data, position, _SEARCHED), lambda: ""
    )


def _parse_orientation(data: tf.Tensor) -> tf.Tensor:
    raw = tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32)
    size = tf.size(raw)
    # The TIFF header follows the EXIF mark within ten bytes.
    little = _find(raw, b"II*\x00")
    big = _find(raw, b"MM\x00*")
    start = tf.minimum(little, big)
    is_little = little < big

    def number(offset: tf.Tensor, width: int) -> tf.Tensor:
        piece = tf.gather(raw, tf.clip_by_value(offset[..., None] + tf.range(width), 0, size - 1))
        powers = tf.constant([256**i for i in range(width)], tf.int32) if width < 4 else None
        if powers is None:  # the fourth byte would overflow, and no offset is that large
            powers = tf.constant([1, 256, 65536, 0], tf.int32)
        ordered = tf.where(is_little, piece, piece[..., ::-1])
        return tf.reduce_sum(ordered * powers, -1)

    def read() -> tf.Tensor:
        directory = start + number(start + 4, 4)
        count = tf.minimum(number(directory, 2), 512)
        entries = directory + 2 + 12 * tf.range(count)
        tags = number(entries, 2)
        values = number(entries + 8, 2)
        found = tf.boolean_mask(values, (tags == 0x0112) & (entries + 12 <= size))
        value = tf.cond(tf.size(found) > 0, lambda: found[0], lambda: 1)
        return tf.where((value >= 1) & (value <= 8), value, 1)

    return tf.cond(start + 8 < size, read, lambda: tf.constant(1, tf.int32))


def _find(raw: tf.Tensor, pattern: bytes) -> tf.Tensor:
    """Return the index of the first `pattern` in the bytes `raw`, or their number if none."""
    count = tf.maximum(tf.size(raw) - len(pattern) + 1, 0)
    hits = tf.ones([count], tf.bool)
    for offset, byte in enumerate(pattern):
        hits &= raw[offset : offset + count] == byte
    found = tf.where(hits)
    return tf.cond(tf.size(found) > 0, lambda: tf.cast(found[0, 0], tf.int32), lambda: tf.size(raw))


def _apply_orientation(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turn() -> tf.Tensor:
        transpose, up_down, left_right = tf.unstack(tf.gather(tf.constant(_TURNS), orientation - 1))
        result = tf.cond(transpose, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        result = tf.cond(up_down, lambda: result[::-1], lambda: result)
        return tf.cond(left_right, lambda: result[:, ::-1], lambda: result)

    result = tf.cond(orientation > 1, turn, lambda: image)
    result.set_shape([None, None, 3])
    return result
