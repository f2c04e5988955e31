"""Brings authentic images and fakes to one encoding, so that it does not reveal the label.

Collections of authentic photographs are mostly JPEG files of many sizes, and those of generated
images mostly square PNG files. Cropping without resizing and encoding every image once more, with a
quality of the same distribution, removes that difference and leaves the pixels' statistics as they
are (Grommelt et al., "Fake or JPEG?", 2024).
"""

import tensorflow as tf

from tfdetect.core.data_settings import Equalize
from tfdetect.imaging.decode import decode_jpeg
from tfdetect.imaging.resampling import antialiased, to_uint8

BLOCK = 8  # pixels: the side of JPEG's blocks, on whose grid crops lie


def equalize(
    image: tf.Tensor,
    settings: Equalize,
    position: tuple[float, float] | tf.Tensor = (0.5, 0.5),
    quality: int | tf.Tensor | None = None,
) -> tf.Tensor:
    """Crop an image on the grid of JPEG's blocks, without resizing, and encode it as JPEG.

    Args:
        image: uint8 [H, W, 3].
        settings: side of the crop and range of qualities. A shorter side is kept.
        position: where the crop lies, down and across, from 0 to 1; 0.5 is the center.
        quality: JPEG quality, int32 scalar; none for the middle one, as in evaluation.

    Returns:
        uint8 [h, w, 3]: the decoded crop.
    """
    side = settings.side
    top, left = tf.unstack(equalized_start(tf.shape(image)[:2], side, position))
    crop = image[top : top + side, left : left + side]
    quality = settings.middle_quality if quality is None else quality
    return decode_jpeg(tf.raw_ops.EncodeJpegVariableQuality(images=crop, quality=quality))


def quality_of_pixels(image: tf.Tensor, settings: Equalize) -> tf.Tensor:
    """Return a JPEG quality within `settings.quality` that follows from an image's pixels, int32.

    Benchmarks encode both classes with the same qualities in this way, each image with its own.

    Args:
        image: uint8 [H, W, 3].
        settings: range of qualities.
    """
    low, high = settings.quality
    rows = tf.reduce_sum(tf.cast(image, tf.int32), axis=[1, 2])  # the sum of all may overflow
    return low + tf.cast(tf.reduce_sum(tf.cast(rows, tf.int64)) % (high - low + 1), tf.int32)


def equalized_start(
    size: tf.Tensor, side: int, position: tuple[float, float] | tf.Tensor = (0.5, 0.5)
) -> tf.Tensor:
    """Return where the crop of `equalize` begins, int32 [2], down and across.

    Args:
        size: height and width of the image, int32 [2].
        side: side of the crop in pixels.
        position: where the crop lies, down and across, from 0 to 1; 0.5 is the center.
    """
    slack = tf.cast(tf.maximum(size - side, 0) // BLOCK, tf.float32)
    steps = tf.minimum(tf.floor(tf.cast(position, tf.float32) * (slack + 1)), slack)
    return tf.cast(steps, tf.int32) * BLOCK


def equalize_images(images: tf.Tensor, settings: Equalize | None) -> tf.Tensor:
    """Equalize one image or several of one size, at the center.

    Args:
        images: uint8 [H, W, 3] or [B, H, W, 3].
        settings: how; none returns the images as they are.

    Returns:
        uint8 [h, w, 3] or [B, h, w, 3].
    """
    if settings is None:
        return images
    if images.shape.rank == 3:
        return equalize(images, settings)
    specification = tf.TensorSpec([None, None, 3], tf.uint8)
    return tf.map_fn(
        lambda image: equalize(image, settings), images, fn_output_signature=specification
    )


def equalize_randomly(image: tf.Tensor, settings: Equalize, seed: tf.Tensor) -> tf.Tensor:
    """Equalize a training image: random crop and quality, and half of them shrunk before.

    Only `settings.random_fraction` of the images are; the others come out as in evaluation.

    Args:
        image: uint8 [H, W, 3].
        settings: how.
        seed: int32 [2].

    Returns:
        uint8 [h, w, 3].
    """
    u = tf.random.stateless_uniform([6], seed)

    def drawn() -> tf.Tensor:
        shrinks = (u[3] < 0.5) & (settings.min_scale < 1)
        factor = settings.min_scale + u[4] * (1 - settings.min_scale)
        changed = tf.cond(shrinks, lambda: _shrunk(image, factor), lambda: image)
        changed.set_shape([None, None, 3])
        low, high = settings.quality
        quality = low + tf.cast(tf.floor(u[2] * (high - low + 1)), tf.int32)
        return equalize(changed, settings, u[:2], quality)

    return tf.cond(u[5] < settings.random_fraction, drawn, lambda: equalize(image, settings))


def _shrunk(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.round(tf.cast(tf.shape(image)[:2], tf.float32) * factor), tf.int32)
    return to_uint8(antialiased(image, tf.maximum(size, 1)))
