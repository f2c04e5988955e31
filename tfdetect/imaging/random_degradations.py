"""Random JPEG and WebP compression, blur, noise and downsampling.

JPEG and blur with their ranges are CNNSpot's (Wang et al., CVPR 2020).
"""

import io
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from tfdetect.imaging.geometry import fold_in, to_uint8


def random_jpeg(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: float = 0.5,
    lowest: int = 30,
    highest: int = 100,
) -> tf.Tensor:
    """Compresses each image with `probability` at a quality from `lowest` to `highest`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].

    Returns:
        uint8 [B, H, W, 3].
    """

    def compress(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        qualities = drawn(images, seed, rows, lowest, highest + 1, tf.int32)

        def one(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, quality = item
            data = tf.raw_ops.EncodeJpegVariableQuality(images=image, quality=quality)
            return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")

        return tf.map_fn(one, (chosen, qualities), fn_output_signature=tf.uint8)

    return some(images, seed, probability, compress)


def random_webp(
    images: tf.Tensor,
    seed: tf.Tensor,
    probability: float = 0.5,
    lowest: int = 30,
    highest: int = 100,
) -> tf.Tensor:
    """Compresses each image as WebP with `probability` at a quality from `lowest` to `highest`.

    TensorFlow has no WebP encoder, so this is Pillow's: the one Python function in the
    pipeline, and slower than JPEG.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].

    Returns:
        uint8 [B, H, W, 3].
    """

    def encode(chosen: np.ndarray, qualities: np.ndarray) -> np.ndarray:
        result = np.empty_like(chosen)
        for number, (pixels, quality) in enumerate(zip(chosen, qualities)):
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "WEBP", quality=int(quality))
            with Image.open(data) as image:
                result[number] = np.asarray(image.convert("RGB"))
        return result

    def compress(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        qualities = drawn(images, seed, rows, lowest, highest + 1, tf.int32)
        return tf.numpy_function(encode, [chosen, qualities], tf.uint8)

    return some(images, seed, probability, compress)


def random_noise(
    images: tf.Tensor, seed: tf.Tensor, probability: float = 0.5, highest: float = 10.0
) -> tf.Tensor:
    """Adds Gaussian noise of sigma 0 to `highest` levels to each image with `probability`.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].

    Returns:
        uint8 [B, H, W, 3], rounded.
    """

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        sigmas = drawn(images, seed, rows, 0.0, highest)[:, None, None, None]
        noise = tf.random.stateless_normal(tf.shape(images), fold_in(seed, 2))
        return to_uint8(tf.cast(chosen, tf.float32) + tf.gather(noise, rows) * sigmas)

    return some(images, seed, probability, change)


def random_downsample(
    images: tf.Tensor, seed: tf.Tensor, probability: float = 0.5, lowest: float = 0.5
) -> tf.Tensor:
    """Makes each image smaller, by a factor from `lowest` to 1, and as large again.

    Both ways with an antialiased bilinear filter.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].

    Returns:
        uint8 [B, H, W, 3], rounded.
    """
    _, height, width, _ = images.shape

    def change(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        factors = drawn(images, seed, rows, lowest, 1.0)

        def one(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, factor = item
            size = tf.cast(tf.round(tf.constant([height, width], tf.float32) * factor), tf.int32)
            small = tf.image.resize(image, tf.maximum(size, 1), antialias=True)
            return to_uint8(tf.image.resize(small, [height, width], antialias=True))

        return tf.map_fn(one, (chosen, factors), fn_output_signature=tf.uint8)

    return some(images, seed, probability, change)


def random_blur(
    images: tf.Tensor, seed: tf.Tensor, probability: float = 0.5, highest: float = 3.0
) -> tf.Tensor:
    """Blurs each image with `probability` by a Gaussian of sigma 0 to `highest` pixels.

    Args:
        images: uint8 [B, H, W, 3].
        seed: int32 [2].

    Returns:
        uint8 [B, H, W, 3], rounded; edges are reflected.
    """

    def blur(chosen: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        sigmas = drawn(images, seed, rows, 0.0, highest)
        return to_uint8(gaussian_blur(chosen, sigmas, highest))

    return some(images, seed, probability, blur)


def gaussian_blur(images: tf.Tensor, sigmas: tf.Tensor, highest: float) -> tf.Tensor:
    """Blurs each image with a sigma of its own.

    Args:
        images: uint8 or float [B, H, W, 3], 0..255.
        sigmas: float32 [B], pixels, 0 to `highest`; 0 changes nothing.
        highest: the largest sigma possible; the kernel reaches four times as far.

    Returns:
        float32 [B, H, W, 3].
    """
    shape = tf.shape(images)
    reach = min(max(1, math.ceil(4 * highest)), 64)
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


def drawn(images: tf.Tensor, seed: tf.Tensor, rows: tf.Tensor, low, high, dtype=tf.float32):
    """Uniform draws of one number an image, those of the chosen rows: [n]."""
    draws = tf.random.stateless_uniform([tf.shape(images)[0]], fold_in(seed, 1), low, high, dtype)
    return tf.gather(draws, rows)


def some(images: tf.Tensor, seed: tf.Tensor, probability: float, change: Callable) -> tf.Tensor:
    """Applies `change(chosen images, their rows)` to a random share of the batch."""
    chosen = tf.random.stateless_uniform([tf.shape(images)[0]], seed) < probability
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
