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


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG, PNG, WebP, BMP or GIF image (its first frame).

    Gray, palette and CMYK images are converted to RGB, alpha is dropped, 16-bit pixels keep
    their upper 8 bits, and EXIF orientation is applied.

    Args:
        data: scalar string, the bytes of the file.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: The format is none of these, or the image is damaged.
    """
    head = tf.strings.substr(data, 0, 16)
    is_jpeg = tf.strings.substr(head, 0, 2) == b"\xff\xd8"
    image = tf.cond(is_jpeg, lambda: _jpeg(data), lambda: _other(data, head))
    return _apply_orientation(image, _orientation(data, is_jpeg))


def _jpeg(data: tf.Tensor) -> tf.Tensor:
    # The accurate inverse DCT is the one that Pillow's libjpeg uses too.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _other(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    is_webp = tf.strings.substr(head, 8, 4) == b"WEBP"
    is_bmp = tf.strings.substr(head, 0, 2) == b"BM"
    return tf.case(
        [(is_webp, lambda: _webp(data)), (is_bmp, lambda: _bmp(data))],
        default=lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
        exclusive=True,
    )


def _webp(data: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_webp(data, channels=0)
    image = tf.cond(tf.rank(image) > 3, lambda: image[0], lambda: image)
    return image[..., :3]


def _bmp(data: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_bmp(data)
    gray = tf.shape(image)[-1] == 1
    return tf.cond(gray, lambda: tf.image.grayscale_to_rgb(image[..., :1]), lambda: image[..., :3])


def _orientation(data: tf.Tensor, is_jpeg: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation, int32 1 to 8; 1 if there is none."""
    # JPEG keeps EXIF in its first 64 KiB; PNG and WebP in a chunk anywhere.
    searched = tf.cond(is_jpeg, lambda: tf.strings.substr(data, 0, 65_536), lambda: data)
    has = tf.strings.regex_full_match(searched, rb"\C*(Exif\x00\x00|eXIf|EXIF)\C*")
    return tf.cond(has, lambda: _parse_orientation(searched), lambda: tf.constant(1, tf.int32))


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
