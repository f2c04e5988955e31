"""Check the settings of a training before an image is read or anything is written."""

import keras

from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.training_settings import Training
from tfdetect.data.augmentation import check_policy, mixes_targets
from tfdetect.data.catalog import Catalog
from tfdetect.data.strata import Replay, strata_of
from tfdetect.data.training_data import check_count, training_annotations
from tfdetect.models.detector import build_detector, check_model
from tfdetect.models.freezing import freeze
from tfdetect.training.devices import Devices
from tfdetect.training.losses import losses_of
from tfdetect.training.trackers import check_trackers


def check_training(
    experiment: Experiment,
    classes: int,
    catalog: Catalog,
    devices: Devices | None = None,
    replay: Replay | None = None,
) -> None:
    """Check the settings of a training, also against its data and devices.

    Args:
        experiment: what is trained, and how.
        classes: number of classes.
        catalog: the data.
        devices: the devices that will train; None where they are not known yet.
        replay: old data among the images.

    Raises:
        UserError: a setting that a training with them would refuse.
    """
    training = experiment.training
    check_experiment(experiment, classes)
    if devices is not None:
        check_devices(training, devices)
    with_masks, curriculum = experiment.model.mask_head is not None, training.curriculum
    known = training_annotations(
        catalog, catalog.split("train"), experiment.data, with_masks, curriculum, replay
    )
    check_count(len(known), training.batch_size)
    strata_of(known, experiment.data, classes, curriculum, replay)


def check_experiment(experiment: Experiment, classes: int) -> None:
    """Check the settings of a training independently of its data; nothing is built.

    Raises:
        UserError: an option is unknown or out of its range, or settings do not fit each other.
    """
    data, model, training = experiment.data, experiment.model, experiment.training
    check_model(model)
    check_trackers(training.track)
    policy = check_policy(data.augment, data.image_size, model.mask_head is not None, classes)
    if training.distill.weight and training.distill.asked == "once" and mixes_targets(policy):
        raise UserError(
            "training.distill.asked: once has answers of the images as they are, not of mixtures: "
            "remove mixup, cutmix and the like from data.augment, or set asked to each_step."
        )
    losses_of(training, classes, ["label"])
    if model.head == "nearest_neighbors" and not training.cache_features:
        raise UserError(
            "model.head: nearest_neighbors compares images with those of training.cache_features: "
            "set it, to 1 for example, and model.freeze: {fraction: 1}."
        )


def check_devices(training: Training, devices: Devices) -> None:
    """Check that batches can be divided among devices.

    Raises:
        UserError: they cannot.
    """
    if training.batch_size % devices.replicas:
        raise UserError(
            f"training.batch_size must be a multiple of the number of devices. Received: batch "
            f"size {training.batch_size} for {devices.replicas} devices."
        )
    if training.accumulate > 1 and (devices.replicas > 1 or devices.workers):
        raise UserError(
            "training.accumulate is for one device: Keras cannot average gradients over steps and "
            "devices at once. Use one (--gpus=0), or a larger training.batch_size on all of them."
        )


def build_checked(experiment: Experiment, classes: int) -> keras.Model:
    """Return the detector of an experiment after a check that each stage can freeze its layers.

    Raises:
        UserError: an option is refused, weights cannot be loaded, or a stage names no layer.
    """
    detector = build_detector(experiment, classes)
    for stage in experiment.training.stages:
        freeze(detector, stage.freeze)
    freeze(detector, experiment.model.freeze)
    return detector
