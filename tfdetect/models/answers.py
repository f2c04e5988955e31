"""What a detector says of images: class probabilities, and which pixels were altered."""

import keras
import tensorflow as tf

from tfdetect.imaging.geometry import resize, restore, to_uint8
from tfdetect.imaging.tiles import by_tiles
from tfdetect.models.heads import TopPixels

_BELOW = 0.499  # the highest P(altered) in what is called authentic


def draws_masks(detector: keras.Model) -> bool:
    """Whether a detector says which pixels were altered."""
    return "mask" in detector.output


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Class probabilities float32 [B, C] of logits [B, 1] (two classes) or [B, C]."""
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == 1:
        return tf.sigmoid(tf.concat([-logits, logits], axis=1))
    return tf.nn.softmax(logits)


def of_windows(detector: keras.Model, windows: tf.Tensor) -> tf.Tensor:
    """Class probabilities of images by the windows cut from them.

    Args:
        windows: [B, windows, H, W, 3] of the detector's size, 0..255.

    Returns:
        float32 [B, C], the mean over an image's windows.
    """
    _, count, *shape = windows.shape
    flat = tf.reshape(tf.cast(windows, tf.float32), [-1, *shape])
    table = probabilities(detector(flat, training=False)["label"])
    return tf.reduce_mean(tf.reshape(table, [-1, count, table.shape[-1]]), axis=1)


def of_images(
    detector: keras.Model, images: tf.Tensor, size: tuple[int, int], policy: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Class probabilities of images, and P(altered) of their pixels.

    Where the verdict is the mask's own (the head top_pixels), the two agree: no pixel of what
    is called authentic has P(altered) 0.5.

    With a window policy images are read by overlapping tiles at their own resolution, and the
    tile with the highest P(fake) gives the probabilities: a forgery may be in one place.

    Args:
        detector: one that draws masks.
        images: [B, H, W, 3], any size, 0..255.
        size, policy: the detector's, as for `geometry.resize`.

    Returns:
        float32 [B, C] and float32 [B, H, W, 1]. With the policy "crop" what lies outside the
        crop has P(altered) 0.
    """

    agree = any(isinstance(layer, TopPixels) for layer in detector.layers)

    def look(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = detector(tf.cast(pixels, tf.float32), training=False)
        table, altered = probabilities(logits["label"]), tf.sigmoid(logits["mask"])
        if agree:
            authentic = table[:, :1, None, None] > 0.5
            altered = tf.where(authentic, tf.minimum(altered, _BELOW), altered)
        return table, altered

    if not policy.startswith("window"):
        table, masks = look(resize(images, size, policy))
        return table, restore(masks, tf.shape(images)[1:3], policy)
    classes = max(2, detector.output["label"].shape[-1])
    tables, masks = by_tiles(to_uint8(images), size, policy.removeprefix("window_"), look)
    surest = tf.argmin(tables[..., 0], axis=1)
    return tf.ensure_shape(tf.gather(tables, surest, batch_dims=1), [None, classes]), masks
