"""`FitJob`: the detector that is trained, and the batches that it is trained on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tfdetect.core.experiment import Experiment
from tfdetect.data.training_stream import TrainingStream
from tfdetect.models.cpu_kernels import use_cpu_kernels
from tfdetect.models.detector import build_detector
from tfdetect.models.parent_detector import with_answers, with_teacher
from tfdetect.training.check_training import check_devices
from tfdetect.training.devices import Devices
from tfdetect.training.losses import with_aux_mask, with_distilled
from tfdetect.training.workers import prepare_model


@dataclass(frozen=True)
class FitData:
    """What a training reads.

    Attributes:
        train: training batches.
        validation: batches of all validation images.
        unaugmented: returns batches of training images without augmentation, for front-ends that
            compute statistics of them.
    """

    train: TrainingStream
    validation: tf.data.Dataset
    unaugmented: Callable[[], tf.data.Dataset]


@dataclass(frozen=True)
class FitJob:
    """What all stages of a training share.

    Attributes:
        experiment: what is trained, and how.
        classes: number of classes.
        devices: the devices that train.
        detector: the whole model.
        trained: the model that is fitted: the detector, or its head on cached features.
        stream: returns endless batches from a step on, or this worker's part of each.
        validation: batches of all validation images, or of this worker's part of them.
        steps: number of steps in an epoch.
    """

    experiment: Experiment
    classes: int
    devices: Devices
    detector: keras.Model
    trained: keras.Model
    stream: Callable[[int], tf.data.Dataset]
    validation: tf.data.Dataset
    steps: int

    def batches(self, start: int) -> Any:
        """Return the training batches from a step on, as Keras takes them."""
        return self.devices.distribute(self.stream(start))


def prepare_job(
    experiment: Experiment,
    classes: int,
    data: FitData,
    devices: Devices,
    teacher: keras.Model | None,
) -> FitJob:
    """Build the detector and the streams of a training.

    Args:
        experiment: what is trained, and how.
        classes: number of classes.
        data: what it reads.
        devices: the devices that train.
        teacher: the detector whose answers are learned at each step; None if nothing is distilled,
            or if the data contain the answers.
    """
    training = experiment.training
    check_devices(training, devices)
    steps = training.steps_of_epoch(data.train.count)
    with devices.scope():
        detector = build_detector(experiment, classes)
        if devices.replicas > 1:
            _synchronize(detector)
        elif not devices.gpus:
            use_cpu_kernels(detector)
        trained = detector
        if training.distill.weight:
            trained = with_answers(detector) if teacher is None else with_teacher(detector, teacher)
        if devices.workers:
            prepare_model(trained)
    part, validation = devices.part(training.batch_size), data.validation
    complete = with_aux_mask if "mask_aux" in detector.output else None
    if teacher is not None:
        complete = with_distilled

    def stream(start: int) -> tf.data.Dataset:
        # Features are computed from whole batches; see `fit`.
        batches = data.train.batches(start, None if training.cache_features else part)
        return batches if complete is None else batches.map(complete)

    if complete is not None:
        validation = validation.map(complete)
    return FitJob(experiment, classes, devices, detector, trained, stream, validation, steps)


def _synchronize(detector: keras.Model) -> None:
    """Make batch normalization use the moments of the global batch."""
    for layer in detector._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
