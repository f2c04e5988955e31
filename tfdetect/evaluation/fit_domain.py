"""Fit the distance from the features of the training images, and choose its limit on validation."""

import numpy as np
import pyarrow as pa

from tfdetect.core import console
from tfdetect.core.feature_distance import FeatureDistance
from tfdetect.core.run import Run
from tfdetect.core.run_info import Domain
from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import image_source
from tfdetect.evaluation.domain import MIN_IMAGES, choose_limit
from tfdetect.evaluation.predictions import CompiledDetector, score_source

MAX_TRAINING_IMAGES = 2_000  # whose features are computed


def fit_distance(run: Run, compiled: CompiledDetector, catalog: Catalog, batch_size: int) -> Run:
    """Fit the distance to the features of training images, and write it into the run's folder.

    Args:
        run: not calibrated yet, or to be calibrated anew.
        compiled: its model, which computes features.
        catalog: the dataset that it was trained on, with its train split.
        batch_size: images a batch.

    Returns:
        The run with a `Domain` whose limit is still to be chosen by `with_limit`; without one
        where there are fewer than 20 training images.
    """
    rows = catalog.split("train")
    if rows.num_rows > MAX_TRAINING_IMAGES:  # at equal distances, so of every class
        chosen = np.linspace(0, rows.num_rows - 1, MAX_TRAINING_IMAGES).astype(np.int64)
        rows = rows.take(pa.array(chosen))
    parts = []
    with console.progress(rows.num_rows, "features of training images", "images") as bar:
        for batch in score_source(run, compiled, image_source(catalog, rows), batch_size):
            if batch.features is not None:
                parts.append(batch.features)
            bar.advance(len(batch.indices))
    features = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    if len(features) < MIN_IMAGES or not np.isfinite(features).all():
        return run.with_info(domain=None)
    distance = FeatureDistance.fit(features)
    distance.save(run.path)
    domain = Domain(
        limit=1e9, rest=distance.rest, false_alarm_rate=0.5, training_images=len(features),
        validation_images=1,
    )  # fmt: skip
    return run.with_info(domain=domain)


def with_limit(run: Run, table: pa.Table, log: console.Log) -> Run:
    """Return the run with the limit of the distance chosen on validation images.

    Args:
        run: the run from `fit_distance`.
        table: predictions of the validation images by that run.
        log: called with a line on what was chosen.
    """
    if run.info.domain is None:
        log("domain: too few training images to tell images with unlike features")
        return run
    distances = table["feature_distance"].drop_null().to_numpy()
    chosen = choose_limit(distances)
    if chosen is None:
        log(
            f"domain: {len(distances)} validation images are too few to choose how far features "
            f"may be from those of the training images; {MIN_IMAGES} are needed"
        )
        return run.with_info(domain=None)
    limit, rate = chosen
    if limit <= 0:
        log(
            "domain: the detector's features are the same for all images, so they do not tell "
            "unlike images; it may have diverged"
        )
        return run.with_info(domain=None)
    log(
        "domain: an image is called unlike the training images if the distance of its features "
        f"from theirs is more than {limit:.3f} (about 1 for themselves); this happens to "
        f"{rate:.1%} of images like those of validation"
    )
    changes = {"limit": limit, "false_alarm_rate": rate, "validation_images": len(distances)}
    return run.with_info(domain=run.info.domain.model_copy(update=changes))
