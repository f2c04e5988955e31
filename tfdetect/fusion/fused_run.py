"""Write a fused detector as a run: model, exports, predictions, metrics and reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import yaml

from tfdetect.core import console
from tfdetect.core.files import checksum, write_text
from tfdetect.core.open_run import read_run
from tfdetect.core.provenance import command_line, provenance
from tfdetect.core.run import Run
from tfdetect.core.run_info import RunInfo, TrainingImages
from tfdetect.core.run_writer import creating, write_info
from tfdetect.core.spec import DatasetSpec
from tfdetect.data.catalog import Catalog
from tfdetect.data.plan import dataset_info
from tfdetect.data.training_hashes import TrainingHashes
from tfdetect.evaluation.calibration_settings import CalibrationSettings
from tfdetect.evaluation.cross_fitting import CrossFitting
from tfdetect.evaluation.evaluate_run import evaluate_run
from tfdetect.evaluation.run_report import write_evaluation
from tfdetect.fusion.fusions import Fusion
from tfdetect.fusion.members import Members
from tfdetect.models.exports import export_finished_run, exported_formats
from tfdetect.models.inference import predicts_masks
from tfdetect.models.saving import load_detector, write_model


@dataclass(frozen=True)
class FusedDetector:
    """A detector that was fused from runs.

    Attributes:
        members: the runs.
        fusion: the fusion of these members.
        model: a model from images to the fused logits and masks.
        mask_weights: the weight of the mask of each member in the fused mask, by name; empty if no
            masks are fused.
        cross_fitting: by how much the logit of each validation image changes if its group is left
            out of the fit; None if that is not known.
    """

    members: Members
    fusion: Fusion
    model: keras.Model
    mask_weights: dict[str, float]
    cross_fitting: CrossFitting | None = None


def write_fused_run(
    path: Path,
    fused: FusedDetector,
    spec: DatasetSpec,
    catalog: Catalog,
    write_report: Callable[[Path], None],
    log: console.Log,
    warnings: Sequence[str] = (),
) -> Run:
    """Write a fused detector as a run, calibrated and evaluated; a failure leaves no files.

    Args:
        path: directory of the run.
        fused: the detector.
        spec, catalog: the dataset that the fusion was fitted on.
        write_report: called with the directory of the run; writes the report on the fusion.
        log: called with each message.
        warnings: warnings about the dataset, besides those of the catalog.
    """
    members, fusion = fused.members, fused.fusion
    dataset = dataset_info(spec, catalog, training_images_of(members.runs), warnings)
    hashes = [TrainingHashes.load(run.path) for run in members.runs]
    with creating(path) as folder:
        document = yaml.safe_dump(_document(members, fusion), sort_keys=False)
        write_text(folder / "ensemble.yaml", document)
        write_text(folder / "dataset.yaml", spec.to_yaml())
        write_model(fused.model, folder / "model.keras")
        if fused.cross_fitting is not None:
            fused.cross_fitting.save(folder)
        if known := [table for table in hashes if table is not None]:
            TrainingHashes.union(known).save(folder)  # the evaluation adds those of this dataset
        run = Run(
            folder,
            RunInfo(
                status="complete",
                class_names=tuple(members.class_names),
                views=tuple(members.views),
                predicts_masks=predicts_masks(fused.model),
                fusion=fusion.name,
                members=tuple(members.names),
                cross_fitted=fused.cross_fitting is not None,
                dataset=dataset,
                parameters=fused.model.count_params(),
                command=command_line("ensemble"),
                **provenance(),
            ),
        )
        write_info(run)
        detector = load_detector(run)  # as it was saved
        evaluation = evaluate_run(
            run, catalog, log=log, calibrate=CalibrationSettings(), detector=detector
        )
        run = evaluation.run
        write_evaluation(evaluation, folder)
        write_info(run)
        formats = [name for member in members.runs for name in exported_formats(member)]
        formats = ["onnx" if name == "onnx_shared" else name for name in formats]
        formats = list(dict.fromkeys(["saved_model", *formats]))
        log(f"exporting {', '.join(formats)}")
        export_finished_run(run, formats, detector)
        write_report(run.path)
    return read_run(path)


def training_images_of(runs: list[Run]) -> TrainingImages:
    """Return what is known of the training images of all runs; nothing if one lacks this."""
    every = [run.info.dataset.training_images for run in runs]
    known = [images for images in every if images is not None]
    if len(known) < len(every):
        return TrainingImages()
    return TrainingImages(
        generators=tuple(dict.fromkeys(name for images in known for name in images.generators)),
        formats=tuple(dict.fromkeys(name for images in known for name in images.formats)),
        shorter_side=_spread_of([images.shorter_side for images in known]),
        longer_side=_spread_of([images.longer_side for images in known]),
    )


def _spread_of(parts: Sequence[tuple[int, int, int] | None]) -> tuple[int, int, int] | None:
    """Return smallest, median and largest of all sides; None if one part does not say."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    smallest, median, largest = zip(*known)
    return min(smallest), int(np.median(median)), max(largest)


def _document(members: Members, fusion: Fusion) -> dict[str, Any]:
    """Return the content of ensemble.yaml."""
    views = [members.views[index] for index in members.view_index]
    return {
        "fusion": fusion.name,
        "bias": round(float(fusion.bias), 6),
        "members": [
            {
                "name": name,
                "run": str(run.path),
                "dataset": run.info.dataset.name,
                "model": checksum(run.model_path)[:16],
                "temperature": round(float(temperature), 6),
                "weight": round(float(weight), 6),
                "view": {"size": list(view.size), "policy": view.policy, "crops": view.crops},
            }
            for name, run, temperature, weight, view in zip(
                members.names, members.runs, fusion.temperatures, fusion.weights, views
            )
        ],
    }
