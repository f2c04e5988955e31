"""A small convolutional autoencoder that leaves a decoder's traces, trained on photographs.

It serves where no diffusion model can be had. Like a diffusion model's it halves the image
by strided convolutions and enlarges it by repeated pixels and convolutions; twice, not three
times, so that so small a network still gives the photograph back.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.errors import UserError

_SIDE = 64  # of a training crop, pixels
_BATCH = 16
_MULTIPLE = 4


class Autoencoder:
    """A trained autoencoder of images of any size."""

    def __init__(self, model: keras.Model):
        self._model = model
        self._apply = tf.function(lambda x: model(x, training=False), reduce_retracing=True)

    def reconstruct(self, image: np.ndarray) -> np.ndarray:
        """Encodes and decodes an image.

        Args:
            image: uint8 [H, W, 3].

        Returns:
            uint8 [H, W, 3].
        """
        height, width = image.shape[:2]
        pads = [(0, -height % _MULTIPLE), (0, -width % _MULTIPLE), (0, 0)]
        padded = np.pad(image, pads, "reflect" if min(image.shape[:2]) > _MULTIPLE else "edge")
        made = self._apply(tf.constant(padded[None], tf.float32))[0, :height, :width]
        return np.rint(np.clip(made, 0, 255)).astype(np.uint8)

    def save(self, path: Path) -> None:
        self._model.save(path)

    @classmethod
    def load(cls, path: Path) -> "Autoencoder":
        """Reads a saved one.

        Raises:
            UserError: there is none, or it is something else.
        """
        try:
            model = keras.saving.load_model(path, compile=False)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is no saved autoencoder: {error}") from error
        if model.input_shape != (None, None, None, 3) or model.output_shape != model.input_shape:
            raise UserError(f"{path} does not take and give images of any size.")
        return cls(model)


def build(channels: int = 24, latent: int = 8) -> keras.Model:
    """The network: float32 [B, H, W, 3] in 0..255 to the same; H and W divide by 4.

    Args:
        channels: of the finest features; coarser ones have twice as many.
        latent: channels of the code, which has a quarter of the image's height and width.
    """
    layers = keras.layers
    x = inputs = keras.Input((None, None, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    for factor in (1, 2):
        x = layers.Conv2D(channels * factor, 3, 2, "same", activation="silu")(x)
        x = layers.Conv2D(channels * factor, 3, padding="same", activation="silu")(x)
    x = layers.Conv2D(latent, 1)(x)
    for factor in (2, 1):
        x = layers.Conv2D(channels * factor, 3, padding="same", activation="silu")(x)
        x = layers.UpSampling2D()(x)
        x = layers.Conv2D(channels * factor, 3, padding="same", activation="silu")(x)
    x = layers.Conv2D(3, 3, padding="same")(x)
    return keras.Model(inputs, layers.Rescaling(127.5, 127.5)(x), name="autoencoder")


def train(
    photos: list[np.ndarray],
    steps: int,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Autoencoder:
    """Trains an autoencoder on random crops of photographs, for the squared error.

    Args:
        photos: uint8 [H, W, 3] each.
        progress: called after each step with its number and loss.
    """
    keras.utils.set_random_seed(seed)
    model = build()
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.Adam(schedule), "mse", jit_compile=False)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        crops = np.stack([_crop(photos[rng.integers(len(photos))], rng) for _ in range(_BATCH)])
        crops = crops.astype(np.float32)
        progress(step + 1, float(model.train_on_batch(crops, crops)))
    return Autoencoder(model)


def _crop(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pads = [(0, max(0, _SIDE - side)) for side in photo.shape[:2]]
    photo = np.pad(photo, [*pads, (0, 0)], "symmetric")
    top, left = (int(rng.integers(side - _SIDE + 1)) for side in photo.shape[:2])
    crop = photo[top : top + _SIDE, left : left + _SIDE]
    return crop[:, ::-1] if rng.random() < 0.5 else crop
