"""A baseline without pixels: a classifier that sees only the format and the size of files."""

import numpy as np
import pyarrow as pa

from tfdetect.core.run_results import BaselineResult
from tfdetect.evaluation.intervals import binary_intervals

FOLDS, DEPTH = 5, 3
MIN_IMAGES = 20  # of each class, below which nothing is measured
MAX_IMAGES = 20_000  # more change nothing


def metadata_baseline(rows: pa.Table) -> BaselineResult | None:
    """Return the metrics of a decision tree that sees format, width, height and nothing else.

    Each image is classified by a tree that was fitted without its group.

    Args:
        rows: the rows of the catalog.

    Returns:
        The metrics; none with too few images of a class.
    """
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.tree import DecisionTreeClassifier

    if rows.num_rows > MAX_IMAGES:
        chosen = np.random.default_rng(0).choice(rows.num_rows, MAX_IMAGES, replace=False)
        rows = rows.take(pa.array(np.sort(chosen)))
    fake = rows["label"].to_numpy() > 0
    if min(fake.sum(), (~fake).sum()) < MIN_IMAGES:
        return None
    width, height = (rows[name].to_numpy().astype(float) for name in ("width", "height"))
    formats = np.array(rows["format"].cast(pa.string()).to_pylist(), object)
    kinds = [formats == kind for kind in sorted({str(f) for f in formats})]
    x = np.stack([width, height, width / np.maximum(height, 1), width * height, *kinds], axis=1)
    groups = np.unique(np.array(rows["group"].to_pylist(), object).astype(str),
                       return_inverse=True)[1]  # fmt: skip
    if groups.max() == 0:
        return None
    scores = np.full(len(fake), 0.5)
    folds = StratifiedGroupKFold(min(FOLDS, groups.max() + 1), shuffle=True, random_state=0)
    for train, test in folds.split(x, fake, groups):
        if len(np.unique(fake[train])) < 2:
            continue  # a group that holds a whole class
        tree = DecisionTreeClassifier(
            max_depth=DEPTH, min_samples_leaf=5, class_weight="balanced", random_state=0
        )
        scores[test] = tree.fit(x[train], fake[train]).predict_proba(x[test])[:, 1]
    found = binary_intervals(fake, scores, names=("balanced_accuracy", "auc"))
    return {"count": len(fake), "balanced_accuracy": found["balanced_accuracy"],
            "auc": found["auc"]}  # fmt: skip
