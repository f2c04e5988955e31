"""A small convolutional autoencoder, trained on photographs, that leaves the traces of a decoder.

It replaces the autoencoder of a diffusion model if none is available. Like those, it reduces the
image by strided convolutions and enlarges it by repeated pixels and convolutions; but only twice,
not three times, so that the small network still reproduces the photograph.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfdetect.core.errors import UserError
from tfdetect.synthesis.tiny_autoencoder import MULTIPLE, is_tiny, load_tiny

_CROP_SIDE = 64  # of a training crop, in pixels
_BATCH_SIZE = 16
_MULTIPLE = 4  # the network's input sides must be divisible by this


class Autoencoder:
    """A trained autoencoder of images of any size."""

    def __init__(self, model: keras.Model, multiple: int = _MULTIPLE):
        """Wrap a network.

        Args:
            model: from float32 [B, H, W, 3] in 0..255 to the same shape.
            multiple: H and W must be divisible by this.
        """
        self._model, self._multiple = model, multiple
        self._apply = tf.function(
            lambda x: model(x, training=False), reduce_retracing=True, autograph=False
        )

    def reconstruct(self, image: np.ndarray) -> np.ndarray:
        """Encode and decode an image.

        Args:
            image: uint8 [H, W, 3].

        Returns:
            uint8 [H, W, 3].
        """
        height, width = image.shape[:2]
        pads = [(0, -height % self._multiple), (0, -width % self._multiple), (0, 0)]
        reflects = min(image.shape[:2]) > self._multiple
        padded = np.pad(image, pads, "reflect" if reflects else "edge")
        made = self._apply(tf.constant(padded[None], tf.float32))[0, :height, :width]
        return np.rint(np.clip(made, 0, 255)).astype(np.uint8)

    def save(self, path: Path) -> None:
        """Save the autoencoder as a .keras file."""
        self._model.save(path)

    @classmethod
    def load(cls, path: Path) -> "Autoencoder":
        """Return the autoencoder of a file.

        Args:
            path: a .keras file, or one of the two files of a published autoencoder; see
                `tiny_autoencoder`.

        Raises:
            UserError: there is no such file, or it contains another network.
        """
        if is_tiny(path):
            return cls(load_tiny(path), MULTIPLE)
        try:
            model = keras.saving.load_model(path, compile=False)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a saved autoencoder: {error}") from error
        if model.input_shape != (None, None, None, 3) or model.output_shape != model.input_shape:
            raise UserError(f"{path} does not map images of any size to images of that size.")
        return cls(model)


def build(channels: int = 24, latent: int = 8) -> keras.Model:
    """Return the network, from images float32 [B, H, W, 3] in 0..255 to the same shape.

    H and W must be divisible by 4.

    Args:
        channels: number of channels at full resolution; the next level has twice as many.
        latent: number of channels of the code, whose sides are a quarter of the image's.
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
    on_step_end: Callable[[int, float], None] = lambda step, loss: None,
) -> Autoencoder:
    """Train an autoencoder on random crops of photographs, with the squared error as loss.

    Args:
        photos: uint8 [H, W, 3] each.
        steps: number of training steps.
        seed: integer that determines initial weights and crops.
        on_step_end: called after each step with its number and loss.
    """
    keras.utils.set_random_seed(seed)
    model = build()
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.Adam(schedule), "mse", jit_compile=False)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        crops = np.stack(
            [_crop(photos[rng.integers(len(photos))], rng) for _ in range(_BATCH_SIZE)]
        )
        crops = crops.astype(np.float32)
        on_step_end(step + 1, float(model.train_on_batch(crops, crops)))
    return Autoencoder(model)


def psnr(autoencoder: Autoencoder, photos: list[np.ndarray]) -> float:
    """Return the peak signal-to-noise ratio of reconstructed photographs in dB.

    Args:
        autoencoder: a trained autoencoder.
        photos: uint8 [H, W, 3] each.
    """
    errors = [
        np.mean((autoencoder.reconstruct(photo).astype(float) - photo) ** 2) for photo in photos
    ]
    return float(10 * np.log10(255**2 / np.mean(errors)))


def _crop(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random square of a photograph, half of the time mirrored."""
    pads = [(0, max(0, _CROP_SIDE - side)) for side in photo.shape[:2]]
    photo = np.pad(photo, [*pads, (0, 0)], "symmetric")
    top, left = (int(rng.integers(side - _CROP_SIDE + 1)) for side in photo.shape[:2])
    crop = photo[top : top + _CROP_SIDE, left : left + _CROP_SIDE]
    return crop[:, ::-1] if rng.random() < 0.5 else crop
