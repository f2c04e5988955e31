"""Measure a run again from the predictions that it keeps, without its images."""

import numpy as np
import pyarrow as pa
from scipy.special import expit

from tfdetect.core.columns import Column, numbers_of, with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.text import shell_command
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.evaluate_run import Evaluation
from tfdetect.evaluation.mask_metrics import BINS
from tfdetect.evaluation.measure import measure
from tfdetect.evaluation.prediction_columns import recalibrate, with_verdicts_of_run
from tfdetect.evaluation.run_report import write_evaluation
from tfdetect.evaluation.videos import VideoNames, measure_videos

_ROUNDING = 1e-4  # of P(fake), where it is computed again from what predictions keep


def remeasure(run: Run) -> Evaluation:
    """Measure a run on its own splits, and write metrics, figures, report and model card.

    The verdicts follow the run's calibration, prior and threshold as they are now. The report shows
    no images.

    Args:
        run: the run, in a staged copy of its folder (`run_writer.updating`).

    Raises:
        UserError: the run was not evaluated, or lacks the predictions of a split.
    """
    if not run.results:
        raise UserError(
            f"{run.name} was not evaluated, so it keeps no predictions. Evaluate it: "
            f"{shell_command('evaluate', run.path)}"
        )
    tables = {split: _as_now(prediction_tables.read(run.path, split), run) for split in run.results}
    results = {split: measure(table, run) for split, table in tables.items()}
    for split, before in run.results.items():  # of the image files, whatever the verdicts are
        if "metadata_baseline" in before:
            results[split]["metadata_baseline"] = before["metadata_baseline"]
        if "videos" in before:
            names = VideoNames(before["videos"]["by"])
            results[split]["videos"] = measure_videos(tables[split], run, names)
    data = run.info.dataset
    found = Evaluation(run, results, tables, data.name, data.warnings)
    write_evaluation(found, run.path)
    return found


def _as_now(table: pa.Table, run: Run) -> pa.Table:
    """Return predictions updated to the present calibration and thresholds of the run.

    Where the calibration is that of the predictions, their probabilities stay: thresholds are often
    the P(fake) of an image, and rounding must not change its verdict.
    """
    raw = without_calibration(table, run)
    new = recalibrate(raw, run)
    before, after = numbers_of(table, "p_fake"), numbers_of(new, "p_fake")
    if not np.allclose(before, after, rtol=0, atol=_ROUNDING, equal_nan=True):
        return new
    if "mask_shown" in table.column_names:
        table = with_columns(table, altered_fraction=raw["altered_fraction"])
    return with_verdicts_of_run(table, run)


def without_calibration(table: pa.Table, run: Run) -> pa.Table:
    """Return predictions as the run makes them without a calibration, with every mask shown.

    Args:
        table: the predictions, calibrated or not.
        run: says which classes there are.
    """
    names = [f"probability_{name}" for name in run.class_names]
    unknown = table["p_fake"].is_null().to_numpy(zero_copy_only=False)
    kinds = np.stack([numbers_of(table, name) for name in names[1:]], axis=1)
    if "logit" in table.column_names:  # exact also where P(fake) is rounded to 0 or 1
        logits = numbers_of(table, "logit").astype(np.float64)
        fake, authentic = expit(logits), expit(-logits)
    else:
        fake = numbers_of(table, "p_fake_raw").astype(np.float64)
        authentic = 1 - fake
    total = kinds.sum(axis=1, keepdims=True)
    ratios = np.where(total > 0, kinds / np.maximum(total, 1e-30), 1 / kinds.shape[1])
    raw = np.concatenate([authentic[:, None], ratios * fake[:, None]], axis=1).astype(np.float32)
    columns = {name: Column(raw[:, n], unknown).to_arrow() for n, name in enumerate(names)}
    if "mask_shown" in table.column_names:
        fractions = np.where(
            table["mask_shown"].fill_null(False).to_numpy(zero_copy_only=False),
            numbers_of(table, "altered_fraction"), _altered_fractions(table),
        )  # fmt: skip
        columns["altered_fraction"] = Column(fractions, np.isnan(fractions)).to_arrow()
    return with_columns(table, **columns)


def _altered_fractions(table: pa.Table) -> np.ndarray:
    """Return the fraction of pixels predicted as altered, nan where the truth is not known."""
    counts = np.full((table.num_rows, BINS), np.nan)
    known = table["altered_histogram"].is_valid().to_numpy(zero_copy_only=False)
    counts[known] = sum(
        np.stack(table[name].filter(pa.array(known)).to_numpy(zero_copy_only=False))
        for name in ("altered_histogram", "authentic_histogram")
    ) if known.any() else 0  # fmt: skip
    return (counts[:, BINS // 2 :].sum(axis=1) / counts.sum(axis=1)).astype(np.float32)
