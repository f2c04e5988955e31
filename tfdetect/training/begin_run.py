"""Begin a run: record what its training starts from, or check that a resumed one starts equally."""

from hashlib import sha256

from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.open_run import read_run
from tfdetect.core.provenance import provenance
from tfdetect.core.run_info import Ancestor, DatasetInfo, RunInfo, View
from tfdetect.core.run_writer import RunWriter
from tfdetect.data.catalog import changed_counts
from tfdetect.data.plan import dataset_info
from tfdetect.data.teacher import teacher_info
from tfdetect.data.warm_start import ancestor
from tfdetect.training.training_job import TrainingJob


def begin_run(writer: RunWriter, job: TrainingJob, command: str) -> None:
    """Write experiment.yaml, dataset.yaml and run.json of a new run; check those of a resumed one.

    Args:
        writer: the writer of the run.
        job: the training.
        command: the command that repeats the training.

    Raises:
        UserError: a resumed training has another parent, teacher or dataset than at its beginning.
    """
    experiment, spec, parent = job.plan.experiment, job.plan.spec, job.parent
    dataset = dataset_info(spec, job.catalog)
    lineage = (ancestor(parent, experiment), *parent.info.lineage) if parent else ()
    if not (writer.path / "run.json").exists() and (writer.final / "state").is_dir():
        writer.adopt()
    if (writer.path / "run.json").exists():
        _check_same_start(read_run(writer.path).info, dataset, lineage, experiment)
        return
    writer.write_text("experiment.yaml", experiment.to_yaml())
    writer.write_text("dataset.yaml", spec.to_yaml())
    writer.begin(
        RunInfo(
            status="training",
            class_names=spec.class_names,
            views=(View.of(experiment.data),),
            predicts_masks=experiment.model.mask_head is not None,
            pretraining=spec.pretraining,
            dataset=dataset,
            lineage=lineage,
            teacher=teacher_info(experiment),
            seed=experiment.seed,
            devices=job.devices.text,
            command=command,
            **provenance(),
        )
    )


def _check_same_start(
    begun: RunInfo, dataset: DatasetInfo, lineage: tuple[Ancestor, ...], experiment: Experiment
) -> None:
    """Check that a resumed training starts from what it started from at its beginning.

    Args:
        begun: what the run recorded at its beginning.
        dataset: the images now.
        lineage: the parent now and its own parents, the nearest first.
        experiment: the experiment of the training.

    Raises:
        UserError: parent, teacher or images are others now.
    """
    if begun.lineage != lineage:
        raise UserError(
            f"The run {experiment.training.from_run}, from which this training started, has "
            "changed since then or was replaced. Start a new training."
        )
    if begun.teacher != teacher_info(experiment):
        raise UserError(
            f"The run {experiment.training.distill.teacher}, the teacher of this training, has "
            "changed since the training began or was replaced. Start a new training."
        )
    if begun.dataset.fingerprint != dataset.fingerprint:
        raise UserError(
            f"The data of {dataset.name} changed since the run began: "
            f"{changed_counts(begun.dataset.counts, dataset.counts)}. A training can be continued "
            "with the same images only. Put them back as they were, or start a new run."
        )


def check_workers(job: TrainingJob) -> None:
    """Check that all workers of a cluster start from the same; do nothing without a cluster.

    Raises:
        UserError: another worker has another experiment, dataset or version, or is lost.
    """
    workers = job.devices.workers
    if workers is None:
        return
    import keras
    import tensorflow as tf

    workers.check_same(
        {
            "experiment": sha256(job.plan.experiment.to_yaml().encode()).hexdigest()[:12],
            "dataset": dataset_info(job.plan.spec, job.catalog).fingerprint,
            "TensorFlow": tf.__version__,
            "Keras": keras.__version__,
        }
    )
