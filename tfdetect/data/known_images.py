"""Find the images of a dataset that other detectors know from their training."""

from collections.abc import Iterable, Mapping

import numpy as np

from tfdetect.core.run import Run
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.training_hashes import TrainingHashes, hashes_of_splits

SPLITS = ("validation", "test")


def has_same_splits(run: Run, catalog: Catalog) -> bool:
    """Return whether a run, and all runs that it comes from, were trained on this same dataset."""
    origin = run.is_ensemble or run.info.lineage  # what these were trained on may be other images
    return not origin and run.info.dataset.fingerprint == catalog.fingerprint()


def warn_of_known_images(
    runs: Mapping[str, Run], hashes: Mapping[str, np.ndarray], then: str = ""
) -> list[str]:
    """Return a warning for each split with images that runs know from their training.

    Images that selected a run's best epoch count in every split but validation, whose figures are
    optimistic anyway.

    Args:
        runs: the runs by the name that is shown; those without hashes are left out.
        hashes: by split, the hashes of its images, uint64 [n, 2].
        then: a sentence to add, what to do.
    """
    known = {name: TrainingHashes.load(run.path) for name, run in runs.items()}
    warnings = []
    for split, images in hashes.items():
        selection = split != "validation"
        counts = {
            name: int(table.contain(images, selection).sum())
            for name, table in known.items() if table is not None
        }  # fmt: skip
        knowing = [f"{name} knows {count:,}" for name, count in counts.items() if count]
        if knowing:
            warnings.append(
                f"Of {counted(len(images), f'{split} image')}, {' and '.join(knowing)} from "
                f"training{' or selection' if selection else ''} (the same or a copy): figures of "
                f"all images say too little about new ones.{then}"
            )
    return warnings


def warn_of_missing_hashes(runs: Mapping[str, Run], catalog: Catalog, then: str = "") -> list[str]:
    """Return a warning if runs have no hashes that tell which images of a dataset they know.

    Args:
        runs: the runs by the name that is shown.
        catalog: the dataset.
        then: what else follows, as the end of the first sentence.
    """
    silent = [
        name for name, run in runs.items()
        if not has_same_splits(run, catalog) and TrainingHashes.load(run.path) is None
    ]  # fmt: skip
    if not silent:
        return []
    return [
        f"No hashes of training images are in {', '.join(silent)}, so it is not known which of "
        f"these validation and test images it was trained on{then}. `calibrate` adds the hashes "
        "where the run's own dataset is."
    ]


def known_to(runs: Iterable[Run], catalog: Catalog) -> list[str]:
    """Return the warnings about the validation and test images that runs know from training.

    The images are read only if a run was trained on other images, or on other splits of these.
    """
    others: dict[str, Run] = {}
    for run in runs:
        if not has_same_splits(run, catalog):
            other = others.get(run.name, run).path != run.path
            others[f"{run.path.parent.name}/{run.name}" if other else run.name] = run
    warnings = warn_of_missing_hashes(others, catalog)
    if len(others) > sum(TrainingHashes.load(run.path) is None for run in others.values()):
        warnings += warn_of_known_images(others, hashes_of_splits(catalog, SPLITS))
    return warnings
