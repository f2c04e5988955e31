"""Front-ends that look at one patch of an image."""

from typing import Any

import keras
import numpy as np
from keras import ops, random

from tfdetect.core.errors import UserError
from tfdetect.core.options import Count, Positive
from tfdetect.models.bilinear import Bilinear
from tfdetect.models.residual_front_ends import srm
from tfdetect.models.tensors import Float32Layer, Tensor


def simplest_patch(
    images: Tensor, side: Count = 32, count: Count = 64, output: Count = 256, clip: Positive = 3.0
) -> Tensor:
    """Return the noise of the patch with the least texture (SSP; Chen et al., arXiv 2402.01123).

    Args:
        images: [B, H, W, 3], 0..255.
        side: the side of the patches in pixels, at most the image's.
        count: number of candidate patches: at random positions in training, on a grid otherwise,
            so that a score is repeatable.
        output: side to which the patch is resized, in pixels.
        clip: residuals in gray levels are clipped to this; see `srm`.

    Returns:
        float32 [B, output, output, 3] in -1..1.
    """
    if side > min(images.shape[1:3]):
        raise UserError(
            f"model.front_end_options.side: at most the image's side, {min(images.shape[1:3])}. "
            f"Received: {side}."
        )
    x = SimplestPatch(side, count, name="simplest_patch")(images)
    x = Bilinear(output, output, dtype="float32", name="simplest_patch_resize")(x)
    return srm(x, clip=clip)


@keras.saving.register_keras_serializable("tfdetect")
class SimplestPatch(Float32Layer):
    """Patch with the least texture: [B, H, W, C] -> [B, side, side, C].

    Texture is the sum of absolute differences of neighboring pixels in four directions.

    Args:
        side: the side of the patch in pixels.
        count: number of candidate patches.
    """

    def __init__(self, side: int = 32, count: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side, self.count = side, count
        self.seeds = random.SeedGenerator(0)

    def call(self, images: Tensor, training: bool | None = False) -> Tensor:
        batch, (height, width) = ops.shape(images)[0], images.shape[1:3]
        side = self.side
        if training:
            rows, columns = (
                random.randint((batch, self.count), 0, length - side + 1, seed=self.seeds)
                for length in (height, width)
            )
        else:
            grid = round(self.count**0.5)
            rows, columns = (
                np.linspace(0, length - side, grid).round().astype("int32")
                for length in (height, width)
            )
            rows, columns = (g.ravel() for g in np.meshgrid(rows, columns, indexing="ij"))
            rows, columns = (ops.tile(ops.convert_to_tensor(g)[None], (batch, 1))
                             for g in (rows, columns))  # fmt: skip
        texture = self._texture(images)
        positions = rows * (width - side + 1) + columns
        flat = ops.reshape(texture, (batch, -1))
        best = ops.argmin(ops.take_along_axis(flat, positions, axis=1), axis=1)[:, None]
        row, column = (ops.take_along_axis(x, best, axis=1) for x in (rows, columns))
        # Gather the rows, then the columns.
        across = (row + np.arange(side))[:, :, None, None]
        x = ops.take_along_axis(images, across, axis=1)
        down = (column + np.arange(side))[:, None, :, None]
        return ops.take_along_axis(x, down, axis=2)

    def _texture(self, x: Tensor) -> Tensor:
        """Return the texture of the patch at each pixel, [B, H - side + 1, W - side + 1, 1]."""
        n = self.side
        pairs = [  # neighboring pixels, and the shape of their differences in a patch
            (x[:, :, 1:], x[:, :, :-1], (n, n - 1)), (x[:, 1:], x[:, :-1], (n - 1, n)),
            (x[:, 1:, 1:], x[:, :-1, :-1], (n - 1, n - 1)),
            (x[:, 1:, :-1], x[:, :-1, 1:], (n - 1, n - 1)),
        ]  # fmt: skip
        total = 0.0
        for a, b, shape in pairs:
            differences = ops.sum(ops.abs(a - b), axis=-1, keepdims=True)
            total += ops.average_pool(differences, shape, 1) * float(np.prod(shape))
        return total

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "side": self.side, "count": self.count}
