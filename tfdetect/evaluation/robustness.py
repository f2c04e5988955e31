"""Measure how verdicts change when images are degraded or attacked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.run_results import Metrics
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import image_source
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.attacks import Attack, Attacker
from tfdetect.evaluation.evaluate_run import mask_truth
from tfdetect.evaluation.intervals import binary_intervals, interval
from tfdetect.evaluation.measure import MAIN_MASK_METRICS, main_mask_metrics
from tfdetect.evaluation.predictions import Alter, CompiledDetector, predict_source
from tfdetect.evaluation.robustness_report import (
    UNDEGRADED,
    DegradationResult,
    RobustnessResult,
    write_report,
)
from tfdetect.evaluation.verdicts import is_fake
from tfdetect.imaging.degradations import Degradation
from tfdetect.models.saving import load_detector

METRICS = ("accuracy", "balanced_accuracy", "recall", "fpr", "auc", "ap")


def measure_robustness(
    run: Run,
    catalog: Catalog,
    split: str,
    degradations: list[Degradation],
    output: Path,
    batch_size: int = 64,
    log: console.Log = console.log,
    attacks: Sequence[Attack] = (),
) -> RobustnessResult:
    """Measure a split without and with each degradation and attack, and write the results.

    Args:
        run: the run.
        catalog: the dataset.
        split: the split of the dataset.
        degradations: both classes are degraded alike.
        output: folder for degradations.json, .html, .parquet (P(fake) of each image, a column for
            each degradation) and figures/degradations.png.
        batch_size: images a batch.
        log: called with each line of progress.
        attacks: the attacks of the images as the detector sees them.

    Raises:
        UserError: the split is empty, or a detector that predicts masks is to be attacked.
    """
    if attacks and run.predicts_masks:
        raise UserError(
            f"{run.name} predicts masks, from tiles of an image; --attack is for detectors without "
            "masks. Measure it with --degrade."
        )
    rows = catalog.split(split)
    if not rows.num_rows:
        raise UserError(f"The dataset {catalog.name} has no images in {split}.")
    detector = load_detector(run)
    compiled = CompiledDetector(run, detector)  # compiled once
    fake = rows["label"].to_numpy() > 0
    changes: dict[str, dict[str, Any]] = {UNDEGRADED: {}}
    changes |= {degradation.name: {"change": degradation.of} for degradation in degradations}
    if attacks:
        attacker = Attacker(run, detector)
        changes |= {attack.name: {"alter": _altering(attacker, attack, fake)} for attack in attacks}
    scores: dict[str, np.ndarray] = {}
    ranks: dict[str, np.ndarray] = {}
    masks: dict[str, Metrics] = {}
    source = image_source(catalog, rows)
    for name, change in changes.items():
        kind = "attack" if "alter" in change else "degradation"
        log(f"evaluating {counted(rows.num_rows, 'image')} of {split}, {kind} {name}")
        # A mask cannot be compared with one of which a part was cut off.
        whole = run.predicts_masks and not name.startswith("crop:")
        truth = mask_truth(catalog, rows) if whole else None
        predictions = predict_source(run, compiled, source, batch_size, truth=truth, **change)
        scores[name] = predictions["p_fake"].to_numpy(zero_copy_only=False)
        ranks[name] = prediction_tables.ranks_of(predictions)
        if run.predicts_masks:
            unknown = dict.fromkeys(MAIN_MASK_METRICS, interval(np.nan))
            masks[name] = main_mask_metrics(predictions) if whole else unknown
    found = _compare(scores, ranks, fake, run.threshold, masks)
    for attack in attacks:
        found["degradations"][attack.name]["budget"] = attack.budget
    write_report(found, run, catalog.name, split, rows, scores, output)
    return found


def _compare(
    scores: dict[str, np.ndarray],
    ranks: dict[str, np.ndarray],
    fake: np.ndarray,
    threshold: float,
    masks: dict[str, Metrics],
) -> RobustnessResult:
    """Return the results, without the budgets of attacks, from P(fake) with each degradation.

    Args:
        scores: float [n] by degradation, nan where an image cannot be read.
        ranks: `ranks_of` the predictions, by degradation.
        fake: bool [n].
        threshold: P(fake) from which the verdict is fake.
        masks: metrics of the masks by degradation.
    """
    known = ~np.isnan(np.stack(list(scores.values()))).any(axis=0)
    verdicts = {name: is_fake(p[known], threshold) for name, p in scores.items()}
    changed = {name: verdict != verdicts[UNDEGRADED] for name, verdict in verdicts.items()}
    results: dict[str, DegradationResult] = {
        name: {
            "metrics": masks.get(name, {}) | binary_intervals(
                fake[known], p[known], threshold, ranks=ranks[name][known], names=METRICS,
            ),
            "flipped": round(float(changed[name].mean()), 6),
        }
        for name, p in scores.items()
    }  # fmt: skip
    unchanged = ~np.stack(list(changed.values())).any(axis=0)
    return {"count": int(known.sum()), "stable": round(float(unchanged.mean()), 6),
            "degradations": results}  # fmt: skip


def _altering(attacker: Attacker, attack: Attack, fake: np.ndarray) -> Alter:
    """Return the attack as a change of batches of views of the images with these labels."""
    return lambda indices, images: attacker(attack, images, fake[indices], indices)
