"""What a training would do, as `train --dry-run` shows it."""

from typing import Any

from tfdetect.core.experiment import Experiment
from tfdetect.core.text import counted
from tfdetect.data.describe import describe_counts
from tfdetect.data.training_data import no_masks_notice
from tfdetect.models.detector_parts import describe
from tfdetect.training.check_training import build_checked
from tfdetect.training.monitor import monitor_of
from tfdetect.training.training_job import TrainingJob

_SHOWN_CLASSES = 10


def describe_job(job: TrainingJob) -> dict[str, str]:
    """Return what will be trained on which data, how and where, in short, by headings."""
    plan, experiment, names = job.plan, job.plan.experiment, job.plan.spec.class_names
    data, model = experiment.data, experiment.model
    parts = {"head": model.head, "mask head": model.mask_head, "weights": model.weights,
             "front-end": model.front_end if model.front_end != "pixels" else None}  # fmt: skip
    detector = [describe(build_checked(experiment, len(names)), model.backbone)]
    detector += [f"{kind} {name}" for kind, name in parts.items() if name]
    images = [f"{data.image_size[0]} x {data.image_size[1]} pixels, resize {data.resize}"]
    if data.augment:
        images.append(f"augmentation {', '.join(step.name for step in data.augment)}")
    authentic = "" if plan.spec.pretraining else " (authentic)"
    classes = [f"{names[0]}{authentic}", *names[1:_SHOWN_CLASSES]]
    if len(names) > _SHOWN_CLASSES:
        classes.append(f"... ({len(names):,} in all)")
    masks = no_masks_notice(job.catalog, model.mask_head is not None)
    return {
        "experiment": f"{experiment.name} ({plan.chosen})",
        "data": f"{plan.spec.name}: {describe_counts(plan.spec, job.catalog)}",
        "classes": ", ".join(classes),
        **({"masks": masks} if masks else {}),
        "images": "; ".join(images),
        "detector": "; ".join(detector),
        "training": _describe_training(experiment, job.catalog.split("train").num_rows),
        "devices": job.devices.text,
        "run": str(job.path),
    }


def job_document(job: TrainingJob) -> dict[str, Any]:
    """Return the resolved experiment, the number of images and the parameters as data."""
    names = job.plan.spec.class_names
    return {
        "experiment": job.plan.experiment.as_data(),
        "dataset": job.plan.spec.name,
        "counts": job.catalog.counts(names),
        "parameters": build_checked(job.plan.experiment, len(names)).count_params(),
        "run": str(job.path),
    }


def _describe_training(experiment: Experiment, images: int) -> str:
    """Return epochs, batches and optimizer of a training on so many images."""
    training = experiment.training
    epochs = [stage.epochs for stage in training.stages] or [training.epochs]
    text = f"{' + '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'}"
    if training.stages:
        text = f"{counted(len(epochs), 'stage')} of {text}"
    batch = counted(training.batch_size, "image")
    if training.accumulate > 1:
        batch += f" (weights change every {training.accumulate} batches)"
    if training.replay:  # an epoch is one pass over the new images
        steps = f"of batches of {batch}, {training.replay:.0%} of them from the run's own data"
    else:
        count = training.steps_of_epoch(images)
        steps = f"{counted(count, 'batch', 'batches')} of {batch}"
    optimizer, schedule = training.optimizer, training.schedule.name
    text += f", each {steps}; {optimizer.name}, learning rate {optimizer.learning_rate:g}"
    text += "" if schedule == "constant" else f" ({schedule})"
    if training.early_stopping is not None:
        text += (
            f"; stops after {counted(training.early_stopping, 'epoch')} without a better validation"
        )
        text += f" {monitor_of(training).title}"
    return text
