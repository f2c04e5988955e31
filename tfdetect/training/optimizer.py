"""Build the optimizer and the learning-rate schedule of an experiment."""

from typing import Any

import keras
import tensorflow as tf

from tfdetect.core.training_settings import Stage, Training


def build_optimizer(
    training: Training, steps_per_epoch: int, stage: Stage | None = None
) -> keras.optimizers.Optimizer:
    """Build the optimizer of a stage; biases and normalization have no weight decay.

    Args:
        training: the settings.
        steps_per_epoch: batches per epoch; schedules count updates of the weights.
        stage: the stage; by default the only one.
    """
    steps_per_epoch //= training.accumulate
    settings = training.optimizer
    common = {
        "learning_rate": _by_update(
            _learning_rate(training, steps_per_epoch, stage or only_stage(training)),
            training.accumulate,
        ),
        "weight_decay": settings.weight_decay or None,
        "clipnorm": settings.clip_norm,
        "gradient_accumulation_steps": training.accumulate if training.accumulate > 1 else None,
    }
    if settings.name == "sgd":
        optimizer = keras.optimizers.SGD(
            momentum=settings.momentum, nesterov=settings.nesterov, **common
        )
    elif settings.name == "adamw":
        optimizer = keras.optimizers.AdamW(**{**common, "weight_decay": settings.weight_decay})
    else:
        optimizer = keras.optimizers.Adam(**common)
    if settings.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        # Keras sums the gradients of one replica, too, by a function that TensorFlow never forgets,
        # and with it the graph of the whole step: tens of megabytes for each training.
        optimizer._all_reduce_sum_gradients = list
    return optimizer


def only_stage(training: Training) -> Stage:
    """Return a training without stages as one stage."""
    return Stage(epochs=training.epochs)


def _learning_rate(training: Training, steps_per_epoch: int, stage: Stage) -> Any:
    rate, schedule = training.optimizer.learning_rate * stage.lr_multiplier, training.schedule
    if schedule.name == "step":
        return keras.optimizers.schedules.ExponentialDecay(
            rate, schedule.step_epochs * steps_per_epoch, schedule.factor, staircase=True
        )
    if schedule.name != "cosine":
        return rate  # constant, or reduced by a callback
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    total = stage.epochs * steps_per_epoch
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(rate, total)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, total - warmup), warmup_target=rate, warmup_steps=warmup
    )


@keras.saving.register_keras_serializable("tfdetect")
class ByUpdate(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule over updates of the weights, although Keras counts steps; computed once a step.

    Keras asks for the learning rate anew for every weight that decays. A graph that computed it
    each time would take seconds more to trace, and each step longer.

    Args:
        schedule: from the number of updates to the learning rate.
        accumulate: number of steps for each update.
    """

    def __init__(self, schedule: Any, accumulate: int) -> None:
        self.schedule, self.accumulate = schedule, accumulate
        self._traced: tf.Tensor | None = None

    def __call__(self, step: Any) -> Any:
        if tf.executing_eagerly():
            return self.schedule(step // self.accumulate)
        if self._traced is None or self._traced.graph is not tf.compat.v1.get_default_graph():
            self._traced = tf.convert_to_tensor(self.schedule(step // self.accumulate))
        return self._traced

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.saving.serialize_keras_object(self.schedule),
                "accumulate": self.accumulate}  # fmt: skip

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ByUpdate":
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["accumulate"])


def _by_update(rate: Any, accumulate: int) -> Any:
    """Return a learning rate that counts updates of the weights; a constant one is unchanged."""
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return rate
    return ByUpdate(rate, accumulate)
