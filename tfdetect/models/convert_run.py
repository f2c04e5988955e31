"""Converts published PyTorch weights to a run."""

import hashlib
from pathlib import Path
from typing import Any

from tfdetect.core.documents import read_rows
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import csv_text, write_text
from tfdetect.core.provenance import command_line, provenance
from tfdetect.core.run import Run, read_run
from tfdetect.core.run_info import DatasetInfo, RunInfo, View
from tfdetect.core.run_writer import creating, write_info


def convert_run(
    weights: Path, experiment: Experiment, path: Path, names: Path | None = None
) -> Run:
    """Convert published PyTorch weights to a run of status "converted".

    The run's conversion.csv lists each variable, the published tensor that it was set to, and
    whether that was matched by its name or, where names are not known, by order and shape.

    Args:
        weights: file of the weights.
        experiment: of the published detector.
        path: the run's folder.
        names: such a table to follow instead.

    Raises:
        UserError: the file cannot be read, or contains other weights.
    """
    from tfdetect.models.detector import build_detector
    from tfdetect.models.exports import export_finished_run
    from tfdetect.models.saving import save_detector
    from tfdetect.models.weights import convert, convertible, read_state

    name = experiment.name
    if name not in convertible():
        raise UserError(
            f"The published weights of {name} cannot be converted. Those of "
            f"{', '.join(convertible())} can."
        )
    wanted = _read_names(names) if names else {}
    state = read_state(weights)
    experiment = _as_published(experiment)
    detector = build_detector(experiment, 2)
    matched = [
        {"variable": variable, "published": key, "matched_by": "name" if known else "order"}
        for variable, key, known in convert(detector, name, state, wanted)
    ]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    info = RunInfo(
        status="converted",
        class_names=("real", "fake"),
        views=(View.of(experiment.data),),
        predicts_masks=experiment.model.mask_head is not None,
        dataset=DatasetInfo(name=f"published weights of {name}", fingerprint=digest),
        parameters=detector.count_params(),
        seed=experiment.seed,
        command=command_line("convert"),
        **provenance(),
    )
    with creating(path) as folder:
        write_text(folder / "experiment.yaml", experiment.to_yaml())
        write_text(folder / "conversion.csv", csv_text(matched))
        save_detector(detector, folder / "model.keras")
        run = Run(folder, info)
        write_info(run)
        export_finished_run(run, experiment.training.export)
    return read_run(path)


def _as_published(experiment: Experiment) -> Experiment:
    """Return the experiment whose network takes the published weights."""
    changes: dict[str, Any] = {"weights": "none"}
    if experiment.name == "probe":  # its file contains only the head
        changes = {}
    if experiment.name == "f3net":
        changes["options"] = {**experiment.model.options, "public_code": True}
    return experiment.model_copy(update={"model": experiment.model.model_copy(update=changes)})


def is_matched_by_order(run: Run) -> bool:
    """Whether some of a converted run's weights were matched by order and shape."""
    return ",order\n" in (run.path / "conversion.csv").read_text(encoding="utf-8")


def _read_names(file: Path) -> dict[str, str]:
    """Return the published name of each variable, from a table like conversion.csv."""
    rows = read_rows(file, ("variable", "published"))
    return {row["variable"]: row["published"] for row in rows}
