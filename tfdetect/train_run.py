"""One training, from a plan to a finished run, in the order in which things happen."""

import sys
from collections.abc import Callable
from pathlib import Path

from tfdetect.core.documents import read_yaml
from tfdetect.core.errors import UserError
from tfdetect.core.files import csv_text
from tfdetect.core.provenance import command_line, provenance
from tfdetect.core.run import SCHEMA, Run
from tfdetect.core.run_writer import RunWriter
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import Plan


def train_run(
    plan: Plan,
    catalog: Catalog,
    path: Path,
    devices,
    pictures: bool = True,
    verbose: int = 1,
    say=print,
    tell: Callable[[int, float], bool] | None = None,
    trial: str | None = None,
    command: str | None = None,
) -> Run:
    """Trains, saves, exports and evaluates; resumes where `path` has a state.

    Args:
        path: the run's final folder.
        devices: from `configure_devices`.
        pictures: whether the report may show images of the dataset.
        verbose: Keras's, 0 to 2.
        tell: called after each epoch with its number and the monitored value; where it returns
            true, the training ends.
        trial: of a search, the command that would repeat it: measured on validation alone,
            without report and SavedModel.
        command: that would repeat it; by default the one that this process was started with.

    Returns:
        The finished run, of status "complete" or, after Ctrl-C, "interrupted".
    """
    from tfdetect.data.training_stream import training_data
    from tfdetect.data.validation_stream import unaugmented_images, validation_data
    from tfdetect.evaluation.evaluate_run import Calibrate, evaluate_run
    from tfdetect.models.saved_model import export_saved_model
    from tfdetect.models.saving import save_detector
    from tfdetect.training.fit import fit, prepare

    experiment, classes = plan.experiment, len(plan.spec.class_names)
    writer = RunWriter(path)
    writer.acquire()
    try:
        _begin(writer, plan, catalog, devices, trial or command or command_line("train"))
        skipped = _Skipped(writer, catalog)

        writer.update_info(precision=prepare(experiment, devices, say))
        with_masks = experiment.model.mask_head is not None
        data = training_data(
            catalog, catalog.split("train"), experiment.data, classes,
            experiment.training.batch_size, experiment.seed, with_masks,
        )  # fmt: skip
        skipped.add(data.broken)
        held_out = validation_data(
            catalog, catalog.split("validation"), experiment.data, classes,
            experiment.training.batch_size, with_masks,
        )  # fmt: skip

        def untouched():
            return unaugmented_images(
                catalog, catalog.split("train"), experiment.data, experiment.training.batch_size
            )

        def told(epoch: int, value: float) -> bool:
            stop = tell is not None and tell(epoch, value)
            if stop:
                writer.update_info(stopped_early=True)
            return stop

        detector, state, interrupted = fit(
            experiment, classes, data, held_out, untouched, devices, writer.path, skipped.add, say,
            verbose, told,
        )  # fmt: skip

        save_detector(detector, writer.path / "model.keras")
        writer.write_text("history.csv", csv_text(state.history))
        status = "interrupted" if interrupted else "complete"
        info = writer.update_info(
            status=status,
            epochs=state.epoch,
            best=state.best,
            training_seconds=round(state.seconds),
            parameters=detector.count_params(),
        )
        run = Run(writer.path, info)
        if trial is not None:
            evaluate_run(run, catalog, ("validation",), say=say, report=False)
        elif plan.spec.pretraining:
            say(f"weights for other trainings: --set model.weights={writer.final}")
        else:
            evaluate_run(run, catalog, pictures=pictures, say=say, calibrate=Calibrate())
            export_saved_model(run.reread())
        if not interrupted:
            state.remove()
        return writer.finish()
    except BaseException:
        writer.abandon()
        raise


def _begin(writer: RunWriter, plan: Plan, catalog: Catalog, devices, command: str) -> None:
    """Writes what the run starts from, or checks that a resumed one starts from the same."""
    fingerprint = catalog.fingerprint()
    if not writer.path.joinpath("run.json").exists() and (writer.final / "state").is_dir():
        writer.adopt()
    if (writer.path / "run.json").exists():
        before = Run(writer.path, read_yaml(writer.path / "run.json")).info["dataset"]
        if before["fingerprint"] != fingerprint:
            raise UserError(
                f"The data of {catalog.name} changed since the run began (fingerprint "
                f"{before['fingerprint']}, now {fingerprint}). Start a new run."
            )
        return
    writer.write_text("experiment.yaml", plan.experiment.to_yaml())
    writer.write_text("dataset.yaml", plan.spec.to_yaml())
    writer.update_info(
        schema=SCHEMA,
        status="training",
        classes=list(plan.spec.class_names),
        image_size=list(plan.experiment.data.image_size),
        resize=plan.experiment.data.resize,
        crops=plan.experiment.data.test_crops,
        threshold=0.5,
        dataset={
            "name": plan.spec.name, "fingerprint": fingerprint,
            "roots": {name: str(root) for name, root in catalog.roots.items()},
            "counts": catalog.counts(plan.spec.class_names), "seen": catalog.seen("train"),
            "skipped": catalog.skipped.num_rows, "warnings": list(catalog.warnings),
        },
        **({"pretraining": True} if plan.spec.pretraining else {}),
        seed=plan.experiment.seed,
        devices=devices.text,
        command=command,
        **provenance(),
    )  # fmt: skip


class _Skipped:
    """The run's list of files that could not be used, in skipped.csv."""

    def __init__(self, writer: RunWriter, catalog: Catalog):
        self._writer = writer
        self._rows = {row["path"]: row["error"] for row in catalog.skipped.to_pylist()}
        self._write()

    def add(self, broken: dict[str, str]) -> None:
        """Lists files that broke after the scan, with the reasons."""
        if broken:
            self._rows |= {name: f"broke after the scan: {e}" for name, e in broken.items()}
            self._write()
            names = ", ".join(list(broken)[:3])
            print(f"\n{len(broken)} files became unreadable and are left out: {names}",
                  file=sys.stderr)  # fmt: skip

    def _write(self) -> None:
        rows = [{"path": path, "error": error} for path, error in self._rows.items()]
        self._writer.write_text("skipped.csv", csv_text(rows, ["path", "error"]))


def describe_plan(plan: Plan) -> str:
    """The resolved experiment and the size of its detector, for --dry-run."""
    from tfdetect.models.detector import build_detector, describe

    detector = build_detector(plan.experiment, len(plan.spec.class_names))
    return f"{plan.experiment.to_yaml()}\n{describe(detector)}"
