"""Explains a detector on a set of images: maps averaged by class, and whether to trust them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_json, write_text
from tfdetect.core.run import Run
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.explanation.image_explainer import ExplainedImage, ImageExplainer, ImageTest
from tfdetect.explanation.set_page import set_page
from tfdetect.explanation.set_results import (
    ExplanationResult,
    FeatureMeans,
    MapMeans,
    summarize_tests,
)

# Explains rows of a catalog elsewhere, for example on a cluster; unreadable images are left out.
ExplainElsewhere = Callable[[Run, Catalog, pa.Table], Iterator[ExplainedImage]]


def explain_set(
    run: Run,
    catalog: Catalog,
    split: str,
    count: int,
    output: Path,
    log: console.Log = console.log,
    stages: Sequence[str] = (),
    elsewhere: ExplainElsewhere | None = None,
) -> ExplanationResult:
    """Average the maps of images of a split; write explanation.json, explanation.html and figures.

    Args:
        run: the run.
        catalog: the dataset.
        split: the split of the dataset.
        count: largest number of images, divided evenly among the classes; a hash of their content
            decides which.
        output: folder to write into.
        log: called with each line of progress.
        stages: the stages of the backbone whose features are averaged instead of the last; see
            `feature_maps`.
        elsewhere: explains the images; by default this process does.

    Raises:
        UserError: the split has no readable image, or the network has no such stage.
    """
    if stages and (run.is_ensemble or len(run.views) > 1):
        raise UserError(f"{run.name} is an ensemble. Use --features with one of its members.")
    available, classes = catalog.split(split), len(run.class_names)
    if not available.num_rows:
        raise UserError(f"The dataset {catalog.name} has no images in {split}.")
    rows = _choose_images(available, count, classes)
    rows = rows.append_column("number", pa.array(range(rows.num_rows), pa.int64()))
    chosen = f" of {available.num_rows:,}, equally many of each class (--count)"
    is_all = rows.num_rows == available.num_rows
    log(f"explaining {counted(rows.num_rows, 'image')} of {split}{'' if is_all else chosen}")
    if elsewhere is None:
        explained = ImageExplainer(run, stages).explain(catalog, rows)
        images = console.track(explained, "explaining", rows.num_rows, "images")
    else:
        images = elsewhere(run, catalog, rows)
    means, features = MapMeans(classes), FeatureMeans(classes)
    tests: dict[str, list[ImageTest]] = {}
    for image in images:
        means.add(image)
        features.add(image)
        for name, test in image.tests.items():
            tests.setdefault(name, []).append(test)
    if not tests:
        raise UserError(f"None of the images of {split} can be read.")
    found: ExplanationResult = {
        "count": sum(means.counts),
        "features": features.sizes,
        "maps": {name: summarize_tests(results) for name, results in tests.items()},
    }
    (output / "figures").mkdir(parents=True, exist_ok=True)
    page = set_page(found, run, catalog.name, split, means, features, output / "figures")
    write_json(output / "explanation.json", found)
    write_text(output / "explanation.html", page)
    return found


def _choose_images(rows: pa.Table, count: int, classes: int) -> pa.Table:
    """Return equally many rows of each class, up to `count` in all."""
    labels = rows["label"].to_numpy()
    order = np.argsort(rows["hash"].to_numpy(zero_copy_only=False), kind="stable")
    each = max(1, count // classes)
    chosen = [order[labels[order] == label][:each] for label in range(classes)]
    return rows.take(pa.array(np.concatenate(chosen)))
