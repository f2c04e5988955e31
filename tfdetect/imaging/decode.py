"""Decodes images in the graph, in the same way in training, prediction and export.

It follows the table of `formats`. Plain JPEG and PNG, nearly all files, go straight to TensorFlow's
decoder, after one search for what makes a file special: metadata that may turn the image, an
unusual color model, or a size near the limit. Special files and other formats are examined first:
by `read`, which calls Python, or by `decode_in_graph` where there is none.
"""

from collections.abc import Callable
from functools import cache
from math import isqrt

import tensorflow as tf

from tfdetect.imaging.graph import rare_branch

# Decodes a file that is no plain JPEG or PNG: its bytes, scalar string -> uint8 [H, W, 3].
Special = Callable[[tf.Tensor], tf.Tensor]

# EXIF orientation -> (transpose height and width, flip up-down, flip left-right),
# applied in this order.
_TURNS = (
    (False, False, False), (False, False, True), (False, True, True), (False, True, False),
    (True, False, False), (True, False, True), (True, True, True), (True, True, False),
)  # fmt: skip
_SEARCHED = 65_536  # first bytes of a JPEG that are searched for metadata
_SHORT_HEADER = 16_384  # bytes; a longer JPEG whose scan does not begin in them is examined
# Regular expressions match bytes above 127 by \C alone: they are for text in UTF-8.
_JPEG_METADATA = rb"\C*(?:Exif\x00\x00|tiff:Orientation|jumb|JFXX\x00)\C*"
# A scan of gray, of two or of three components, the first of its image.
_JPEG_SCAN = rb"\C*\x00(?:\x08\x01\C{2}|\x0a\x02\C{4}|\x0c\x03\C{6})\x00[\x00\x3f]\C\C*"
_PNG_METADATA = rb"\C*(?:eXIf|Raw profile type exif|XML:com\.adobe\.xmp)\C*"
_PLAIN_PNG = rb"\CPNG\r\n\x1a\n\C{4}IHDRSIDESIDE"
_NOTHING = rb"[^\x00-\x{10FFFF}]"


def refuse(reason: tf.Tensor) -> tf.Tensor:
    """Raise an InvalidArgumentError with the reason, a scalar string."""
    with tf.control_dependencies([tf.debugging.Assert(False, [reason])]):
        return tf.zeros([0, 0, 3], tf.uint8)


def decode(data: tf.Tensor, max_pixels: int, special: Special) -> tf.Tensor:
    """Decode an image.

    Args:
        data: scalar string, the bytes of the file.
        max_pixels: plain images with more pixels are not decoded here.
        special: decodes all other files; a function that stays one, see `rare_branch`.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: The file is damaged, or `special` refuses it.
    """
    side = _quick_side(max_pixels)

    def jpeg() -> tf.Tensor:
        is_short = tf.strings.length(data) <= _SEARCHED
        is_plain = _fits(data, side) & is_short & ~_names_metadata(data)
        return tf.cond(is_plain, lambda: decode_jpeg(data), lambda: _long_jpeg(side, special)(data))

    is_jpeg = tf.strings.substr(data, 0, 2) == b"\xff\xd8"
    image = tf.cond(is_jpeg, jpeg, lambda: _other(side, special)(data))
    image.set_shape([None, None, 3])
    return image


def _quick_side(max_pixels: int) -> int:
    """Return a power of two: images with shorter sides need no exact look at their size."""
    return min(1 << isqrt(max_pixels).bit_length() - 1, 32_768)


def _fits(data: tf.Tensor, side: int) -> tf.Tensor:
    return tf.reduce_all(tf.io.extract_jpeg_shape(data) <= [side - 1, side - 1, 3])


@cache  # so that it is traced once
def _long_jpeg(side: int, special: Special) -> Special:
    @rare_branch
    def jpeg(data: tf.Tensor) -> tf.Tensor:
        is_plain = _fits(data, side) & ~may_have_jpeg_metadata(data)
        return tf.cond(is_plain, lambda: decode_jpeg(data), lambda: special(data))

    return jpeg


@cache
def _other(side: int, special: Special) -> Special:
    plain = _PLAIN_PNG.replace(b"SIDE", rb"\x00\x00[\x00-\x%02x]\C" % (max(side, 256) // 256 - 1))
    plain = plain if side >= 256 else _NOTHING

    @rare_branch
    def other(data: tf.Tensor) -> tf.Tensor:
        is_plain = tf.strings.regex_full_match(tf.strings.substr(data, 0, 24), plain)
        is_plain &= ~may_have_png_metadata(data)
        return tf.cond(is_plain, lambda: decode_png(data), lambda: special(data))

    return other


def may_have_jpeg_metadata(data: tf.Tensor) -> tf.Tensor:
    """Return whether a JPEG may have EXIF or XMP that turns it."""

    def has_long_header() -> tf.Tensor:
        start = tf.strings.substr(data, 0, _SHORT_HEADER)
        return ~tf.strings.regex_full_match(start, _JPEG_SCAN)

    # Large color profiles may precede EXIF; scans never do.
    is_long = tf.strings.length(data) > _SEARCHED
    return _names_metadata(data) | tf.cond(is_long, has_long_header, lambda: False)


def _names_metadata(data: tf.Tensor) -> tf.Tensor:
    start = tf.strings.substr(data, 0, _SEARCHED)
    return tf.strings.regex_full_match(start, _JPEG_METADATA)


def may_have_png_metadata(data: tf.Tensor) -> tf.Tensor:
    """Return whether a PNG may have EXIF or XMP that turns it."""
    return tf.strings.regex_full_match(data, _PNG_METADATA)


def decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG as it is stored, uint8 [H, W, 3]."""
    # The accurate inverse DCT is the one that Pillow's libjpeg uses too.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def decode_png(data: tf.Tensor) -> tf.Tensor:
    """Decode a PNG as it is stored, uint8 [H, W, 3]."""
    return tf.io.decode_png(data, channels=3)


def decode_webp(data: tf.Tensor) -> tf.Tensor:
    """Decode a WebP of one frame as it is stored, uint8 [H, W, 3].

    With several frames and no alpha, TensorFlow's decoder writes beyond its buffer.
    """
    return tf.io.decode_webp(data, channels=0)[0, ..., :3]


def is_jpeg_png_webp_bmp(data: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Return whether a file is JPEG, PNG, WebP or BMP, by its first bytes."""
    head = tf.strings.substr(data, 0, 16)
    return (
        tf.strings.substr(head, 0, 2) == b"\xff\xd8",
        tf.strings.substr(head, 0, 8) == b"\x89PNG\r\n\x1a\n",
        tf.strings.regex_full_match(head, rb"RIFF\C{4}WEBP\C*"),
        tf.strings.substr(head, 0, 2) == b"BM",
    )


def turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Return an image [H, W, C] upright, given the orientation that EXIF names, 1 to 8."""

    def turned() -> tf.Tensor:
        transpose, up_down, left_right = tf.unstack(tf.gather(tf.constant(_TURNS), orientation - 1))
        result = tf.cond(transpose, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        result = tf.cond(up_down, lambda: result[::-1], lambda: result)
        return tf.cond(left_right, lambda: result[:, ::-1], lambda: result)

    return tf.cond(orientation > 1, turned, lambda: image)
