"""The domain of a detector: images whose size, format and features are like in training."""

from typing import TYPE_CHECKING

import numpy as np

from tfdetect.core.columns import Column
from tfdetect.core.run import Run

if TYPE_CHECKING:
    import pyarrow as pa

_COMMA = ", "  # between reasons
FALSE_ALARM_RATE = 0.01  # of the validation images whose features may be called unlike
MIN_IMAGES = 20  # of validation, below which no limit is chosen
REASONS = ("size", "format", "features")  # in what an image may be unlike the training images


def split_reasons(text: str | None) -> list[str]:
    """Return the `REASONS` in a value of the column domain_reasons."""
    return text.split(_COMMA) if text else []


def choose_limit(distances: np.ndarray) -> tuple[float, float] | None:
    """Choose the distance beyond which features are unlike those of the training images.

    Args:
        distances: the distances of validation images, float [n].

    Returns:
        The limit, and the fraction of images like these that lie beyond it: 1%, or with fewer than
        99 images 1 / (n + 1), as no smaller fraction can be promised from them (conformal
        prediction; Vovk et al., 2005). None below 20 images.
    """
    count = len(distances)
    if count < MIN_IMAGES:
        return None
    beyond = int(FALSE_ALARM_RATE * (count + 1))  # of count + 1 images, the new one among them
    rank = min(count - beyond, count - 1)
    rate = FALSE_ALARM_RATE if beyond else 1 / (count + 1)
    return float(np.sort(distances)[rank]), rate


def domain_columns(
    run: Run,
    sides: np.ndarray,
    formats: np.ndarray,
    distances: np.ndarray,
    missing: np.ndarray,
) -> dict[str, Column]:
    """Return the columns in_domain, domain_reasons and feature_distance.

    Args:
        run: says what the training images are.
        sides: the shorter and the longer side of each image, int [n, 2], in pixels.
        formats: the formats of each image, object [n]; None is not compared.
        distances: the distances of the features, float32 [n]; nan where the run has no statistic of
            them.
        missing: which images could not be read, bool [n].
    """
    unlike = _unlike_sizes(run, sides)
    if alike := run.in_domain_formats:
        known = [each is None or each in alike for each in formats]
        unlike["format"] = ~np.array(known, bool)
    return _columns(run, unlike, distances, missing)


def update_domain(
    table: "pa.Table", run: Run, sides: np.ndarray | None = None
) -> dict[str, Column]:
    """Return the same columns of predictions by what the run knows now.

    Args:
        table: the predictions.
        run: the run, which has another limit of the features' distance or, after a calibration,
            other sizes.
        sides: the shorter and the longer side of each image, int [n, 2], in pixels; by default
            sizes are judged as before.
    """
    missing = table["error"].is_valid().to_numpy(zero_copy_only=False)
    texts, unlike = table["domain_reasons"].to_pylist(), {}
    if not all(text is None for text in texts):
        for name in ("size", "format"):
            unlike[name] = np.array([name in split_reasons(text) for text in texts], bool)
        if sides is not None:
            unlike |= _unlike_sizes(run, sides)
    return _columns(run, unlike, table["feature_distance"].to_numpy(zero_copy_only=False), missing)


def _unlike_sizes(run: Run, sides: np.ndarray) -> dict[str, np.ndarray]:
    """Return which images have another size than those that the run knows, as `unlike`."""
    limits = run.in_domain_sides
    if limits is None:
        return {}
    shorter, longer = sides[:, 0], sides[:, 1]
    unlike = (shorter < limits.low) | (shorter > limits.high)
    if limits.longest is not None:
        unlike |= longer > limits.longest
    return {"size": unlike}


def _columns(
    run: Run, unlike: dict[str, np.ndarray], distances: np.ndarray, missing: np.ndarray
) -> dict[str, Column]:
    """Return the columns, given which images differ for all reasons but their features."""
    if run.info.domain is not None:
        with np.errstate(invalid="ignore"):
            unlike = unlike | {"features": distances > run.info.domain.limit}
    unknown = missing if unlike else np.ones(len(missing), bool)
    nothing = np.zeros(len(missing), bool)
    texts = np.full(len(missing), "", object)
    for name, rows in unlike.items():
        texts[rows] = [f"{text}{_COMMA}{name}" if text else name for text in texts[rows]]
    return {
        "in_domain": Column(~np.any([nothing, *unlike.values()], axis=0), unknown),
        "domain_reasons": Column(texts, unknown),
        "feature_distance": Column(distances.astype(np.float32), np.isnan(distances)),
    }
