"""Find the dataset on which an ensemble is fitted."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.spec import DatasetSpec
from tfdetect.data.catalog import Catalog
from tfdetect.data.describe import read_data
from tfdetect.data.locate import present_roots
from tfdetect.data.plan import make_plan, roots_of, with_splits_of
from tfdetect.fusion.members import Members


def find_fusion_data(
    members: Members,
    dataset: str | None,
    data_dir: Path | None,
    authentic: str | None,
    log: console.Log,
    progress: bool,
) -> tuple[DatasetSpec, Catalog]:
    """Return a dataset, by default the union of all datasets that the members were trained on.

    Args:
        members: the runs.
        dataset: the dataset as `--dataset` takes it; None for those of the members.
        data_dir: directory that contains it.
        authentic: the authentic class of a folder without a spec.
        log: called with the names of the datasets, before anything is downloaded, and with what was
            found.
        progress: whether to show progress.

    Raises:
        UserError: the dataset has other classes than the members, or its validation split has no
            authentic images or no fakes.
    """
    if dataset is None:
        names = list(dict.fromkeys(map(_training_dataset, members.runs)))
        dataset = "+".join(names)
        if len(names) > 1:
            log(
                f"The members were trained on {len(names)} datasets: {', '.join(names)}. The "
                "fusion is fitted on all of them, and those that are not found are downloaded. To "
                "fit it on one of them, or on other images, stop and give --dataset."
            )
    plan = make_plan(dataset, None, [], data_dir, authentic)
    plan = replace(plan, spec=with_splits_of(plan.spec, *members.runs))
    if not data_dir:
        for run in members.runs:
            roots = present_roots(run.dataset_spec(), run.roots)
            plan = replace(plan, folders={**roots, **plan.folders})
    classes = plan.spec.class_names
    if len(classes) != len(members.class_names):
        raise UserError(
            f"The members have the classes {', '.join(members.class_names)}, but the dataset "
            f"{plan.spec.name} has {', '.join(classes)}. A fusion is fitted on as many classes as "
            "the member with the most classes has: choose such a --dataset."
        )
    catalog = read_data(plan.spec, roots_of(plan), progress, log)
    fake = catalog.split("validation")["label"].to_numpy() > 0
    if len(np.unique(fake)) < 2:
        found = f"only {'fakes' if fake.all() else 'authentic images'}" if len(fake) else "no image"
        raise UserError(
            f"A fusion is fitted on authentic images and fakes, but the validation split of "
            f"{plan.spec.name} has {found}. Choose another --dataset."
        )
    return plan.spec, catalog


def _training_dataset(run: Run) -> str:
    """Return the dataset of a run as `--dataset` takes it.

    Raises:
        UserError: the run does not record its dataset.
    """
    name = run.experiment().data.dataset
    if name is None or not (run.path / "dataset.yaml").is_file():
        raise UserError(
            f"The run {run.name} does not record the dataset that it was trained on. Choose one "
            "with --dataset."
        )
    return name
