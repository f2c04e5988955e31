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
    level: tf.Tensor | None = None,
) -> tf.Tensor:
    """Crop an image on the grid of JPEG's blocks, without resizing, and encode it as JPEG.

    Args:
        image: uint8 [H, W, 3].
        settings: side of the crop and range of qualities. A shorter side is kept.
        position: where the crop lies, down and across, from 0 to 1; 0.5 is the center.
        level: float32 scalar in [0, 1), from the lowest to the highest quality. None derives it
            from the pixels, so that an image has one result wherever it is read.

    Returns:
        uint8 [h, w, 3]: the decoded crop.
    """
    side, (low, high) = settings.side, settings.quality
    top, left = tf.unstack(equalized_start(tf.shape(image)[:2], side, position))
    crop = image[top : top + side, left : left + side]
    if level is None:
        rows = tf.reduce_sum(tf.cast(crop, tf.int32), axis=[1, 2])  # the sum of all may overflow
        step = tf.cast(tf.reduce_sum(tf.cast(rows, tf.int64)) % (high - low + 1), tf.int32)
    else:
        step = tf.cast(tf.floor(level * (high - low + 1)), tf.int32)
    data = tf.raw_ops.EncodeJpegVariableQuality(images=crop, quality=low + step)
    return decode_jpeg(data)


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
    """Equalize one image or several of one size, at the center and with their own qualities.

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
        return equalize(changed, settings, u[:2], u[2])

    return tf.cond(u[5] < settings.random_fraction, drawn, lambda: equalize(image, settings))


def _shrunk(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.round(tf.cast(tf.shape(image)[:2], tf.float32) * factor), tf.int32)
    return to_uint8(antialiased(image, tf.maximum(size, 1)))
