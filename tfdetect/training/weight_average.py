"""An exponential moving average of the weights, validated and saved instead of the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf


class AverageWeights(keras.callbacks.Callback):
    """Averages the weights over the steps (Polyak averaging, exponentially weighted).

    The moving statistics of batch normalization are averaged with them: those of the last step
    belong to other weights.

    Keras's optimizers can do so, too, but overwrite the weights with the average whenever a call
    of fit ends, so that a resumed training would differ from an uninterrupted one.

    Args:
        momentum: the momentum of the average; lower in the first steps, (1 + step) / (10 + step),
            so that it forgets the initial weights.
        accumulates: whether not every step changes the weights; those that do not are left out.
    """

    def __init__(self, momentum: float, accumulates: bool = False) -> None:
        super().__init__()
        self.momentum, self._accumulates = momentum, accumulates
        self._step = 0
        self.variables: list[tf.Variable] = []
        self._update: Callable[[tf.Tensor], None] | None = None

    def start(self, model: keras.Model) -> None:
        """Start from the model's weights; a resumed average is then restored into `variables`."""
        self.set_model(model)
        averages, weights = self.variables, self._weights
        averages += [tf.Variable(_value(v)) for v in weights]

        @tf.function(autograph=False)
        def update(momentum: tf.Tensor) -> None:
            for average, weight in zip(averages, weights):
                keep = tf.cast(momentum, average.dtype)
                average.assign(keep * average + (1 - keep) * _value(weight))

        self._update = update

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._step = self._updates()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = self._updates()
        if self._accumulates and step == self._step:
            return
        self._step = step
        assert self._update is not None  # since `start`
        self._update(tf.constant(min(self.momentum, (1 + step) / (10 + step)), tf.float32))

    @property
    def _weights(self) -> list[keras.Variable]:
        layers = self.model._flatten_layers()
        normalizations = [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]
        statistics = [v for layer in normalizations for v in layer.non_trainable_variables]
        return [*self.model.trainable_variables, *statistics]

    def _updates(self) -> int:
        """Return how often the optimizer has changed the weights."""
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._swap()

    def on_test_end(self, logs: dict | None = None) -> None:
        self._swap()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model within a `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for average, weight in zip(self.variables, self._weights):
            value = tf.identity(_value(weight))
            weight.assign(average)
            average.assign(value)


def _value(variable: Any) -> tf.Tensor:
    return tf.convert_to_tensor(variable.value if hasattr(variable, "value") else variable)
