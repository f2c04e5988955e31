"""Functions of the Python API that answer a question by several trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.api.arguments import Log, Overrides, checked, gpus_of, plan_of
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import override
from tfdetect.core.files import check_writable
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run import Run
from tfdetect.core.text import MAX_NAME_BYTES, checked_name, file_name

if TYPE_CHECKING:
    from tfdetect.data.plan import Plan
    from tfdetect.training.devices import Devices


@dataclass(frozen=True)
class StudyResults:
    """What a study found.

    Attributes:
        values: the content of curve.json or variants.json.
        folder: with the runs, the page, figures and tables.
        runs: the run of each training, by its name.
    """

    values: dict[str, Any]
    folder: Path
    runs: dict[str, Run] = field(repr=False)

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"


@checked
def learning_curve(
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    by: str = "images",
    points: int = 5,
    seeds: int = 1,
    equal_images: bool = False,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    progress: bool = True,
    log: Log = console.log,
) -> StudyResults:
    """Train on nested subsets of a dataset and fit how the test error falls with their size.

    The same call continues an interrupted one; finished runs are reused.

    Args:
        dataset, experiment, model, overrides, data_dir, authentic: see `train`.
        by: what subsets have less of: "images", "generator", "dataset" (the parts of a union), or
            a regular expression on paths whose group names the part, such as the content.
        points: number of sizes: all, half of it, a quarter, and so on.
        seeds: trainings of each size, each with its own order of the data and initialization.
        equal_images: by parts, give all trainings as many images as the one with the fewest, so
            that variety alone differs.
        gpus, gpu_memory_limit: see `train`.
        output: folder for the study's folder.
        name: name of that folder; by default "learning-curve-EXPERIMENT-DATASET".
        progress: whether to show progress.
        log: called with each message.

    Returns:
        The test error with intervals at each size, and the fitted power law.

    Raises:
        UserError: the data are too few for so many points, or the folder holds other runs.
    """
    _check_counts(points=(points, 2), seeds=(seeds, 1))
    if equal_images and by == "images":
        raise UserError("--equal-images is for --by generator, dataset or a regular expression.")
    plan = plan_of(dataset, experiment, model, overrides, data_dir, authentic)
    folder, devices = _begin("learning-curve", plan, output, name, gpus, gpu_memory_limit)
    from tfdetect.data.plan import find_data
    from tfdetect.generalization.learning_curve import make_subsets, measure_curve
    from tfdetect.generalization.study_report import write_curve
    from tfdetect.generalization.train_matrix import train_each

    catalog = find_data(plan, progress, log)
    subsets = make_subsets(plan, catalog, by, points, range(seeds), equal_images)
    log(f"{len(subsets)} trainings of {points} sizes; folder: {folder}")
    smallest = min(subset.images for subset in subsets.values())
    if smallest < plan.experiment.training.batch_size:
        log(f"The smallest training has {smallest} images; all use batches of {smallest} images.")
        plan = _with(plan, f"training.batch_size={smallest}")
    trainings = {
        name: (_with(plan, f"seed={plan.experiment.seed + subset.seed}"), subset.catalog)
        for name, subset in subsets.items()
    }
    runs = train_each(trainings, folder, devices, "study", progress, log)
    values = {
        "experiment": plan.experiment.name, "dataset": plan.spec.name, "by": by,
        **measure_curve(subsets, runs, catalog, by),
    }  # fmt: skip
    write_curve(values, folder)
    return StudyResults(values, folder, runs)


@checked
def compare_variants(
    vary: str | Sequence[str],
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    seeds: int = 1,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    progress: bool = True,
    log: Log = console.log,
) -> StudyResults:
    """Train variants of an experiment with the same seeds and data, and test whether they differ.

    The same call continues an interrupted one; finished runs are reused.

    Args:
        vary: "KEY=A,B,..." for one variant for each value; or several texts, each the settings of
            one variant, "KEY=VALUE" joined by ";".
        dataset, experiment, model, overrides, data_dir, authentic: see `train`.
        seeds: trainings of each variant.
        gpus, gpu_memory_limit: see `train`.
        output: folder for the study's folder.
        name: name of that folder; by default "variants-EXPERIMENT-DATASET".
        progress: whether to show progress.
        log: called with each message.

    Returns:
        Metrics of each variant as means over the seeds, and the differences from the first one,
        with paired intervals.

    Raises:
        UserError: fewer than two variants, a wrong setting, or the folder holds other runs.
    """
    from tfdetect.generalization.variants import plan_variants, split_variants

    _check_counts(seeds=(seeds, 1))
    texts = [vary] if isinstance(vary, str) else list(vary)
    variants = split_variants(texts)
    plan = plan_of(dataset, experiment, model, overrides, data_dir, authentic)
    numbers = [plan.experiment.seed + number for number in range(seeds)]
    trainings = plan_variants(plan, variants, numbers)
    folder, devices = _begin("variants", plan, output, name, gpus, gpu_memory_limit)
    from tfdetect.data.plan import find_data
    from tfdetect.generalization.study_report import write_variants
    from tfdetect.generalization.train_matrix import train_each
    from tfdetect.generalization.variants import measure_variants

    catalog = find_data(plan, progress, log)
    log(f"{len(trainings)} trainings of {len(variants)} variants; folder: {folder}")
    runs = train_each(
        {name: (own, catalog) for name, (_, _, own) in trainings.items()}, folder, devices,
        "study", progress, log,
    )  # fmt: skip
    values = {
        "experiment": plan.experiment.name, "dataset": plan.spec.name, "vary": ", ".join(texts),
        **measure_variants(trainings, runs, catalog),
    }  # fmt: skip
    write_variants(values, folder)
    return StudyResults(values, folder, runs)


def _with(plan: Plan, setting: str) -> Plan:
    return replace(plan, experiment=override(plan.experiment, [setting]))


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (count, least) in counts.items():
        if count < least:
            raise UserError(f"{name} is at least {least}. Received: {count}.")


def _begin(
    kind: str,
    plan: Plan,
    output: str | Path,
    name: str | None,
    gpus: str | Sequence[int] | None,
    gpu_memory_limit: str | None,
) -> tuple[Path, Devices]:
    """Return the folder of a study, which can be written, and the devices that train."""
    from tfdetect.training.devices import parse_gpus, parse_memory_limit

    numbers, limits = parse_gpus(gpus_of(gpus)), parse_memory_limit(gpu_memory_limit)
    default = file_name(f"{kind}-{plan.experiment.name}-{plan.spec.name}", most=MAX_NAME_BYTES)
    folder = Path(output) / checked_name(default if name is None else name, "the study")
    check_writable(folder)
    import_tensorflow()
    from tfdetect.training.devices import configure_devices

    return folder, configure_devices(numbers, limits)
