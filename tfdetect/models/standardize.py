"""`Standardize`: a layer with the mean and the deviation of training images."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tfdetect.models.detector_parts import backbone_of
from tfdetect.models.tensors import Float32Layer, Tensor


@keras.saving.register_keras_serializable("tfdetect")
class Standardize(Float32Layer):
    """Standardize each element by a mean and a standard deviation that `learn` computes."""

    def build(self, shape: Any) -> None:
        def weight(name: str, start: str) -> Tensor:
            return self.add_weight(name=name, shape=shape[1:], initializer=start, trainable=False)

        self.mean, self.deviation = weight("mean", "zeros"), weight("deviation", "ones")

    def call(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation

    def learn(self, batches: Iterable) -> None:
        """Compute mean and standard deviation of batches, arrays [B, ...] (Welford's algorithm)."""
        count, mean, squares = 0, 0.0, 0.0
        for batch in batches:
            batch = np.asarray(batch, np.float64)
            if not len(batch):
                continue
            here = batch.mean(0)
            squares += ((batch - here) ** 2).sum(0)
            squares += (here - mean) ** 2 * count * len(batch) / (count + len(batch))
            mean += (here - mean) * len(batch) / (count + len(batch))
            count += len(batch)
        deviation = np.sqrt(squares / count)
        self.mean.assign(mean)
        # A constant element has no deviation; it must stay finite.
        self.deviation.assign(np.where(deviation > 1e-6, deviation, 1.0))


def learn_statistics(
    detector: keras.Model, images: Callable[[], Iterable], head: bool = True
) -> None:
    """Compute the statistics of the `Standardize` layers of a detector on training images.

    Args:
        detector: its `Standardize` layers are set.
        images: returns batches float32 [B, H, W, 3] in 0..255; called only if a layer needs them.
        head: whether to set the layers of the head, too; if not, only those before the backbone.
    """
    last = None if head else detector.layers.index(backbone_of(detector))
    for layer in detector.layers[:last]:
        if isinstance(layer, Standardize):
            before = keras.Model(detector.inputs[0], layer.input)
            layer.learn(before.predict_on_batch(batch) for batch in images())
