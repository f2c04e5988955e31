"""Fit masks to their images, and to the views of images that a detector takes."""

import tensorflow as tf

from tfdetect.data.targets import UNKNOWN
from tfdetect.imaging.geometry import resize, uncropped, window
from tfdetect.imaging.graph import rare_branch


def fit_mask(mask: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return a mask at the size of its image.

    Args:
        mask: uint8 [h, w, 1], as from `Masks.load`; empty if the image has no mask.
        size: int32 [2], height and width of the image.

    Returns:
        uint8 [*size, 1]: the mask, resized to the nearest pixel if it has another size; zeros if
        there is no mask.
    """
    same = tf.reduce_all(tf.shape(mask)[:2] == size)
    fitted = tf.cond(same, lambda: mask, lambda: _resized_mask(mask, size))
    fitted.set_shape([None, None, 1])
    return fitted


@rare_branch
def _resized_mask(mask: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return a mask at another size, or zeros if it is empty; see `fit_mask`."""
    return tf.cond(
        tf.size(mask) == 0,
        lambda: tf.zeros([size[0], size[1], 1], tf.uint8),
        lambda: tf.image.resize(mask, size, "nearest"),
    )


def view_mask(
    mask: tf.Tensor,
    image: tf.Tensor,
    size: tuple[int, int],
    policy: str,
    position: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the part of a mask that belongs to the view of its image.

    The result is zeros if no altered pixel is in view. It is `UNKNOWN` everywhere if the altered
    pixels in view were lost by resizing, or if the whole mask is zeros: a fake with such a mask is
    not authentic, as zeros would say.

    Args:
        mask: uint8 [h, w, 1], as from `Masks.load`; empty if the image has no mask.
        image: the whole image, uint8 [H, W, 3].
        size: (height, width) of the view in pixels.
        policy: how to resize; see `geometry.resize`.
        position: the position of the window, down and across, from 0 to 1; the center by default.

    Returns:
        uint8 [*size, 1].
    """

    def view() -> tf.Tensor:
        whole = fit_mask(mask, tf.shape(image)[:2])
        if position is None:
            seen = resize(whole, size, policy, nearest=True)
        else:
            seen = window(whole, size, policy, position)
        shows = tf.reduce_max(seen) > 0
        return tf.cond(shows, lambda: seen, lambda: _empty_view(whole, size, policy))

    result = tf.cond(tf.size(mask) == 0, lambda: tf.zeros([*size, 1], tf.uint8), view)
    result.set_shape([*size, 1])
    return result


@rare_branch
def _empty_view(mask: tf.Tensor, size: tuple[int, int], policy: str) -> tf.Tensor:
    """Return the view of a mask without altered pixels in view: zeros, or `UNKNOWN` everywhere.

    Args:
        mask: the mask at the size of its image, uint8 [H, W, 1].
        size: (height, width) of the view in pixels.
        policy: how to resize; see `geometry.resize`.
    """
    if policy in ("stretch", "pad"):  # they cut nothing off
        return tf.fill([*size, 1], tf.constant(UNKNOWN, tf.uint8))
    cut_off = tf.reduce_max(mask) > 0
    if policy == "crop":
        cut_off &= tf.reduce_max(uncropped(mask, size)) == 0
    return tf.fill([*size, 1], tf.where(cut_off, tf.constant(0, tf.uint8), UNKNOWN))
