"""Random JPEG and WebP compression, blur, noise and downsampling.

The default ranges of JPEG and blur are those of CNNSpot (Wang et al., CVPR 2020).
"""

import io
import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
import tensorflow as tf
from PIL import Image
from pydantic import Field

from tfdetect.core.options import Fraction, FractionAbove0, Quality
from tfdetect.imaging.decode import decode_jpeg
from tfdetect.imaging.draws import normal, uniform
from tfdetect.imaging.geometry import fold_in
from tfdetect.imaging.resampling import antialiased, to_uint8


def random_jpeg(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    min_quality: Quality = 30,
    max_quality: Quality = 100,
) -> tf.Tensor:
    """Compress each image as JPEG with `probability`, at a random quality.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        min_quality: lowest quality, 1 to 100.
        max_quality: highest quality, 1 to 100.

    Returns:
        uint8 [B, H, W, 3].
    """

    def compress(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        qualities = uniform_for(images, seed, rows, min_quality, max_quality + 1, tf.int32)

        def one(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, quality = item
            data = tf.raw_ops.EncodeJpegVariableQuality(images=image, quality=quality)
            return decode_jpeg(data)

        return tf.map_fn(one, (chosen, qualities), fn_output_signature=tf.uint8)

    return change_some(images, seed, probability, compress)


def random_webp(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    min_quality: Quality = 30,
    max_quality: Quality = 100,
) -> tf.Tensor:
    """Compress each image as WebP with `probability`, at a random quality.

    TensorFlow has no WebP encoder, so Pillow's is used. It is the one Python function in the
    pipeline, and slower than JPEG.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        min_quality: lowest quality, 1 to 100.
        max_quality: highest quality, 1 to 100.

    Returns:
        uint8 [B, H, W, 3].
    """

    def encode(chosen: np.ndarray, qualities: np.ndarray) -> np.ndarray:
        return np.stack([webp_again(*each) for each in zip(chosen, qualities.tolist())])

    def compress(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        qualities = uniform_for(images, seed, rows, min_quality, max_quality + 1, tf.int32)
        return tf.numpy_function(encode, [chosen, qualities], tf.uint8)

    return change_some(images, seed, probability, compress)


def webp_again(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Return an image uint8 [H, W, 3] as Pillow compresses it to WebP and decodes it."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "WEBP", quality=quality)
    with Image.open(data) as image:
        return np.asarray(image.convert("RGB"))


def random_noise(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    max_sigma: Annotated[float, Field(ge=0, le=255)] = 10.0,
) -> tf.Tensor:
    """Add Gaussian noise of random strength to each image with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        max_sigma: largest standard deviation in gray levels, 0 to 255; it is drawn from 0 to this.

    Returns:
        uint8 [B, H, W, 3], rounded.
    """

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        sigmas = uniform_for(images, seed, rows, 0.0, max_sigma)[:, None, None, None]
        noise = normal([tf.shape(images)[0], *images.shape[1:]], fold_in(seed, 2))
        return to_uint8(tf.cast(chosen, tf.float32) + tf.gather(noise, rows) * sigmas)

    return change_some(images, seed, probability, change)


def random_downsample(
    images: tf.Tensor, seed: tf.Tensor, probability: Fraction = 0.5, min_scale: FractionAbove0 = 0.5
) -> tf.Tensor:
    """Shrink each image with `probability` and enlarge it to its size again.

    Both steps use an antialiased bilinear filter.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        min_scale: smallest factor on the sides, above 0; it is drawn from this to 1.

    Returns:
        uint8 [B, H, W, 3], rounded.
    """
    _, height, width, _ = images.shape

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        factors = uniform_for(images, seed, rows, min_scale, 1.0)

        def one(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, factor = item
            size = tf.cast(tf.round(tf.constant([height, width], tf.float32) * factor), tf.int32)
            small = antialiased(image, tf.maximum(size, 1))
            return to_uint8(antialiased(small, [height, width]))

        return tf.map_fn(one, (chosen, factors), fn_output_signature=tf.uint8)

    return change_some(images, seed, probability, change)


def random_blur(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: Fraction = 0.5,
    max_sigma: Annotated[float, Field(ge=0, le=20)] = 3.0,
) -> tf.Tensor:
    """Blur each image with `probability` by a Gaussian filter of random width.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        max_sigma: largest standard deviation in pixels, 0 to 20; it is drawn from 0 to this.

    Returns:
        uint8 [B, H, W, 3], rounded; edges are reflected.
    """

    def blur(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        sigmas = uniform_for(images, seed, rows, 0.0, max_sigma)
        return to_uint8(gaussian_blur(chosen, sigmas, max_sigma))

    return change_some(images, seed, probability, blur)


def blur_reach(max_sigma: float) -> int:
    """Return how far the kernel of `gaussian_blur` extends: four standard deviations, in pixels."""
    return min(max(1, math.ceil(4 * max_sigma)), 64)


def gaussian_blur(images: tf.Tensor, sigmas: tf.Tensor, max_sigma: float) -> tf.Tensor:
    """Blur each image by a Gaussian filter of its own width.

    Args:
        images: uint8 or float [B, H, W, 3] in 0..255.
        sigmas: float32 [B], standard deviations in pixels, 0 to `max_sigma`; 0 changes nothing.
        max_sigma: largest possible standard deviation, from which the kernel's reach follows.

    Returns:
        float32 [B, H, W, 3] in 0..255.
    """
    shape = tf.shape(images)
    reach = blur_reach(max_sigma)
    offsets = tf.range(-reach, reach + 1, dtype=tf.float32)
    kernels = tf.exp(-0.5 * tf.square(offsets[:, None] / tf.maximum(sigmas, 1e-3)[None]))
    kernels = tf.repeat(kernels / tf.reduce_sum(kernels, 0), 3, axis=1)  # [taps, B * 3]
    # One image a channel group, so that one depthwise convolution blurs them all.
    x = tf.transpose(tf.cast(images, tf.float32), [1, 2, 0, 3])
    x = tf.reshape(x, [1, shape[1], shape[2], -1])
    pad_y = tf.minimum(reach, shape[1] - 1)
    pad_x = tf.minimum(reach, shape[2] - 1)
    for axis, pad in ((1, pad_y), (2, pad_x)):
        paddings = tf.scatter_nd([[axis]], [[pad, pad]], [4, 2])
        x = tf.pad(x, paddings, "REFLECT")
        # An image smaller than the kernel is extended on by its edge pixels.
        rest = tf.scatter_nd([[axis]], [[reach - pad, reach - pad]], [4, 2])
        x = tf.pad(x, rest, "SYMMETRIC")
        taps = kernels[:, None] if axis == 1 else kernels[None]
        x = tf.nn.depthwise_conv2d(x, taps[..., None], [1, 1, 1, 1], "VALID")
    x = tf.reshape(x, [shape[1], shape[2], shape[0], 3])
    return tf.transpose(x, [2, 0, 1, 3])


def uniform_for(
    images: tf.Tensor,
    seed: tf.Tensor,
    rows: tf.Tensor,
    low: float,
    high: float,
    dtype: tf.DType = tf.float32,
) -> tf.Tensor:
    """Draw one number for each image of a batch, and return those of some rows.

    Args:
        images: [B, H, W, 3]; only their number matters.
        seed: int32 [2].
        rows: int32 [n], rows of the batch.
        low: smallest number.
        high: bound above, which is not drawn.
        dtype: type of the numbers.

    Returns:
        Numbers of `dtype` [n].
    """
    draws = uniform([tf.shape(images)[0]], fold_in(seed, 1), low, high, dtype)
    return tf.gather(draws, rows)


def change_some(
    images: tf.Tensor, seed: tf.Tensor, probability: float, change: Callable
) -> tf.Tensor:
    """Change each image of a batch with `probability`; the others cost nothing.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].
        probability: 0 to 1.
        change: from the chosen images [n, H, W, 3] and their rows int32 [n] to the changed
            images.

    Returns:
        uint8 [B, H, W, 3].
    """
    chosen = uniform([tf.shape(images)[0]], seed) < probability
    rows = tf.cast(tf.where(chosen)[:, 0], tf.int32)
    result = tf.cond(
        tf.size(rows) > 0,
        lambda: tf.tensor_scatter_nd_update(
            images, rows[:, None], change(tf.gather(images, rows), rows)
        ),
        lambda: images,
    )
    result.set_shape(images.shape)
    return result
