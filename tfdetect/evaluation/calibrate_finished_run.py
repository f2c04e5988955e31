"""Calibrate a finished run again, and update its thresholds, results, report and exports."""

from collections.abc import Mapping
from pathlib import Path

from tfdetect.core import console
from tfdetect.core.array_files import calibrated_parts
from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import write_text
from tfdetect.core.run import Run
from tfdetect.core.run_info import View
from tfdetect.core.run_writer import updating, write_info, write_source
from tfdetect.data.catalog import Catalog
from tfdetect.evaluation.calibration_settings import CalibrationSettings
from tfdetect.evaluation.evaluate_run import Evaluation, evaluate_run
from tfdetect.evaluation.model_card import model_card
from tfdetect.evaluation.remeasure import remeasure
from tfdetect.evaluation.run_report import write_evaluation
from tfdetect.models.exports import export_finished_run, exported_formats
from tfdetect.models.saving import load_detector


def calibrate_finished_run(
    run: Run,
    catalog: Catalog,
    roots: Mapping[str, Path],
    split: str,
    settings: CalibrationSettings,
    output: Path,
    *,
    images_in_report: bool,
    batch_size: int,
    log: console.Log,
) -> Evaluation:
    """Calibrate a run on a split, measure it on that and on the test split, and export it again.

    Args:
        run: the run, which changes in one swap.
        catalog: the dataset.
        roots: where its images are, as for `evaluation_folder`.
        split: what the run is calibrated on.
        settings: how.
        output: folder for the results: the run's own, or one below its evaluations/.
        images_in_report, batch_size, log: see `evaluate_run`.

    Raises:
        UserError: see `calibrate_run` and `with_tile_pooling`.
    """
    experiment = None
    if settings.tile_pooling is not None:
        experiment = with_tile_pooling(run, settings.tile_pooling, settings.dataset)
    with updating(run) as staged:
        if experiment is not None:
            staged = staged.with_info(views=(View.of(experiment.data),))
            write_text(staged.path / "experiment.yaml", experiment.to_yaml())
        detector = load_detector(staged)
        found = evaluate_run(
            staged, catalog, (split,) if split == "all" else (split, "test"),
            images_in_report=images_in_report, batch_size=batch_size, calibrate=settings, log=log,
            detector=detector,
        )  # fmt: skip
        folder = staged.path / output.relative_to(run.path)
        write_evaluation(found, folder)
        if folder != staged.path:
            write_source(folder, roots)
        parts = calibrated_parts(staged.path)
        if found.run.info != run.info or parts != calibrated_parts(run.path):
            write_info(found.run)
            if settings.dataset:
                remeasure_calibrated(found.run, catalog.name, log)
            export_finished_run(found.run, exported_formats(run), detector)
    return found


def with_tile_pooling(run: Run, pooling: str, dataset: str) -> Experiment:
    """Return a run's experiment with a pooling of tiles that the run is to be calibrated with.

    Args:
        run: the run.
        pooling: wanted.
        dataset: name of the images to calibrate on, "" for the run's own.

    Raises:
        UserError: it is unknown or not for this run, or the images are not the run's own.
    """
    if run.is_ensemble:
        raise UserError(f"{run.name} is an ensemble. Choose the tile pooling of its members.")
    if dataset:
        raise UserError(
            f"Another tile pooling changes every P(fake) of {run.name}: calibrate it on its own "
            "dataset first, and then on other images."
        )
    experiment = run.experiment()
    data = {**experiment.data.as_data(), "tile_pooling": pooling}
    return validate(Experiment, {**experiment.as_data(), "data": data}, run.name)


def remeasure_calibrated(run: Run, dataset: str, log: console.Log) -> None:
    """Update metrics, report and model card of a run after a calibration on other images.

    Args:
        run: the calibrated run, in its staged copy.
        dataset: name of the images that it was calibrated on.
        log: called with what was done.
    """
    kept = run.path / "predictions"
    if run.results and all((kept / f"{split}.parquet").is_file() for split in run.results):
        remeasure(run)
        log(
            f"{run.name}: its own splits were measured again by the predictions that it keeps; "
            "evaluate it where its dataset is to show images in the report, too"
        )
    elif (run.path / "model_card.md").is_file():
        write_text(run.path / "model_card.md", model_card(run, run.results, dataset))
        log(
            f"{run.name}: its own report and metrics were measured before this calibration, and "
            "it keeps no predictions to measure again; evaluate it where its dataset is"
        )
