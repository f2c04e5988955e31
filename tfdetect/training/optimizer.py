"""Builds the optimizer and the learning-rate schedule of an experiment."""

from typing import Any

import keras

from tfdetect.core.experiment import Stage, Training


def build_optimizer(
    training: Training, steps_per_epoch: int, stage: Stage | None = None
) -> keras.optimizers.Optimizer:
    """Build the optimizer of a stage; biases and normalization have no weight decay."""
    settings = training.optimizer
    common = {
        "learning_rate": _learning_rate(training, steps_per_epoch, stage or only_stage(training)),
        "weight_decay": settings.weight_decay or None,
        "clipnorm": settings.clip_norm,
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
