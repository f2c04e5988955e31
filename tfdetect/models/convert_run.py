"""Convert published PyTorch weights to a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import checksum, csv_text, write_text
from tfdetect.core.open_run import read_run
from tfdetect.core.parsing import read_rows
from tfdetect.core.provenance import command_line, provenance
from tfdetect.core.run import Run
from tfdetect.core.run_info import DatasetInfo, PublishedWeights, RunInfo, View
from tfdetect.core.run_writer import creating, write_info
from tfdetect.core.text import from_os

EPSILON = 1e-12


def convert_run(
    weights: Path, experiment: Experiment, path: Path, names: Path | None = None
) -> Run:
    """Convert published PyTorch weights to a run of status "converted".

    The run's conversion.csv lists each variable, the published tensor that it was set to, and
    whether that was matched by its name or, where names are not known, by order and shape.

    Args:
        weights: file of the weights.
        experiment: the experiment of the published detector.
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
    published = PublishedWeights(file=from_os(weights.name), sha256=checksum(weights))
    info = RunInfo(
        status="converted",
        class_names=("real", "fake"),
        views=(View.of(experiment.data),),
        predicts_masks=experiment.model.mask_head is not None,
        dataset=DatasetInfo(name=f"published weights of {name}", fingerprint=published.sha256[:16]),
        published_weights=published,
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
    """Return the experiment of the network that the published weights fit."""
    changes: dict[str, Any] = {"weights": "none"}
    if experiment.name == "probe":  # its file contains only the head
        changes = {}
    if experiment.name == "f3net":
        changes["options"] = {**experiment.model.options, "public_code": True}
    return experiment.model_copy(update={"model": experiment.model.model_copy(update=changes)})


def statistics_on(run: Run, images: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the statistics that a converted network keeps of its training with those of images.

    A file of weights does not tell how images were preprocessed. But each batch normalization
    keeps the means and variances of its input in training, and other photographs give similar
    ones if they are preprocessed in the same way.

    Args:
        run: a converted run.
        images: paths of image files.

    Returns:
        A row for each normalization, from the input on: `layer`, its name; `variance`, the
        variance on the images as a multiple of the kept one (geometric mean over channels);
        `spread`, the standard deviation of that ratio's natural logarithm over channels; and
        `mean`, the root mean square difference of the means, in kept standard deviations. Empty
        where the backbone has no batch normalization of its own or no image can be read.
    """
    import keras

    from tfdetect.data.loading import view_dataset
    from tfdetect.data.sources import Files
    from tfdetect.models.detector_parts import backbone_of
    from tfdetect.models.saving import load_detector

    detector = load_detector(run)
    backbone = backbone_of(detector)
    normalizations = [
        layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if not normalizations:
        return []
    read = keras.Model(detector.inputs[0], backbone._inbound_nodes[-1].input_tensors[0])
    moments = keras.Model(
        backbone.inputs, [keras.ops.moments(layer.input, axes=(1, 2)) for layer in normalizations]
    )
    batches = [
        [(mean.numpy(), variance.numpy()) for mean, variance in moments(read(part[:, 0]))]
        for _, (part,) in view_dataset(Files.checked(images), run.views, 8)
    ]
    rows = []
    for layer, parts in zip(normalizations, zip(*batches)):
        means, variances = (np.concatenate(values) for values in zip(*parts))
        kept = layer.moving_variance.numpy() + EPSILON
        ratio = np.log((variances.mean(0) + means.var(0) + EPSILON) / kept)
        shift = (means.mean(0) - layer.moving_mean.numpy()) / np.sqrt(kept)
        rows.append({
            "layer": layer.name, "variance": float(np.exp(ratio.mean())),
            "spread": float(ratio.std()), "mean": float(np.sqrt(np.mean(shift**2))),
        })  # fmt: skip
    return rows


def is_matched_by_order(run: Run) -> bool:
    """Return whether some of a converted run's weights were matched by order and shape."""
    return ",order\n" in (run.path / "conversion.csv").read_text(encoding="utf-8")


def _read_names(file: Path) -> dict[str, str]:
    """Return the published name of each variable, from a table like conversion.csv."""
    rows = read_rows(file, ("variable", "published"))
    return {row["variable"]: row["published"] for row in rows}
