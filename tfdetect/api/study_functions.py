"""Functions of the Python API that answer a question by several trainings, also the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.api.arguments import Overrides, gpus_of, override_texts, plan_of, writing_on
from tfdetect.api.checked import checked
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import check_writable
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run import Run
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.text import MAX_NAME_BYTES, checked_name, counted, file_name, user_path

if TYPE_CHECKING:
    from tfdetect.data.plan import Plan
    from tfdetect.generalization.planned import Planned
    from tfdetect.generalization.study_results import (
        ClusterResult,
        CurveResult,
        MatrixResult,
        VariantsResult,
    )
    from tfdetect.training.devices import Devices


@dataclass(frozen=True)
class StudyResults:
    """What a study found.

    Attributes:
        values: the content of curve.json or variants.json; of a dry run what would be trained.
        folder: the folder with the runs, the page, figures and tables.
        runs: the run of each training, by its name.
    """

    values: CurveResult | VariantsResult | Planned
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
    points: int | None = None,
    seeds: int = 1,
    equal_images: bool = False,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    dry_run: bool = False,
    progress: bool = True,
    log: console.Log = console.log,
) -> StudyResults:
    """Train on nested subsets of a dataset and fit how the test error falls with their size.

    The same call continues an interrupted one; finished runs are reused.

    Args:
        dataset, experiment, model, overrides, data_dir, authentic: see `train`.
        by: what subsets have less of: "images", "generator", "dataset" (the parts of a union), or
            a regular expression on paths whose group names the part, such as the content.
        points: number of sizes: all, half of it, a quarter, and so on; by default 5, or as many
            as there are.
        seeds: trainings of each size, each with its own order of the data and initialization.
        equal_images: by parts, give all trainings as many images as the one with the fewest, so
            that variety alone differs.
        gpus, gpu_memory_limit: see `train`.
        output: folder for the study's folder.
        name: name of that folder; by default "learning-curve-EXPERIMENT-DATASET".
        dry_run: train nothing: `values` says what would be trained and which runs are reused
            (`generalization.planned.plan_each`), and `runs` is empty.
        progress: whether to show progress.
        log: called with each message.

    Returns:
        The test error with intervals at each size, and the fitted power law.

    Raises:
        UserError: the data are too few for so many points, or the folder holds other runs.
    """
    if points is not None and points < 2:
        raise UserError(f"points is at least 2. Received: {points}.")
    if equal_images and by == "images":
        raise UserError("--equal-images is for --by generator, dataset or a regular expression.")
    plan = _plan_of(dataset, experiment, model, overrides, data_dir, authentic)
    folder, devices = _begin("learning-curve", plan, output, name, gpus, gpu_memory_limit)
    from tfdetect.data.plan import find_data
    from tfdetect.generalization.learning_curve import make_subsets, measure_curve
    from tfdetect.generalization.planned import plan_each
    from tfdetect.generalization.study_report import write_curve
    from tfdetect.generalization.train_matrix import (
        check_each,
        train_each,
        with_possible_settings,
    )

    catalog = find_data(plan, progress, log)
    subsets = make_subsets(plan, catalog, by, points, range(seeds), equal_images)
    sizes = len({subset.size for subset in subsets.values()})
    log(f"{counted(len(subsets), 'training')} of {counted(sizes, 'size')}; folder: {folder}")
    plan = with_possible_settings(plan, (subset.catalog for subset in subsets.values()), log)
    trainings = {
        name: (plan.with_settings([f"seed={plan.experiment.seed + subset.seed}"]), subset.catalog)
        for name, subset in subsets.items()
    }
    check_each(trainings, devices)
    if dry_run:
        return StudyResults(plan_each(trainings, folder), folder, {})
    runs = train_each(trainings, folder, devices, "study", progress, log)
    values = measure_curve(plan, subsets, runs, catalog, by)
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
    dry_run: bool = False,
    progress: bool = True,
    log: console.Log = console.log,
) -> StudyResults:
    """Train variants of an experiment with the same seeds and data, and test whether they differ.

    The same call continues an interrupted one; finished runs are reused.

    Args:
        vary: "KEY=A,B,..." for one variant for each value; or several texts, each the settings of
            one variant, "KEY=VALUE" joined by ";", with or without "NAME: " before them.
        dataset, experiment, model, overrides, data_dir, authentic: see `train`.
        seeds: trainings of each variant.
        gpus, gpu_memory_limit: see `train`.
        output: folder for the study's folder.
        name: name of that folder; by default "variants-EXPERIMENT-DATASET".
        dry_run: train nothing: `values` says what would be trained and which runs are reused
            (`generalization.planned.plan_each`), and `runs` is empty.
        progress: whether to show progress.
        log: called with each message.

    Returns:
        Metrics of each variant as means over the seeds, and the differences from the first one,
        with paired intervals.

    Raises:
        UserError: fewer than two variants, a wrong setting, or the folder holds other runs.
    """
    from tfdetect.generalization.variants import plan_variants, split_variants

    texts = [vary] if isinstance(vary, str) else list(vary)
    variants = split_variants(texts)
    plan = _plan_of(dataset, experiment, model, overrides, data_dir, authentic)
    numbers = [plan.experiment.seed + number for number in range(seeds)]
    trainings = plan_variants(plan, variants, numbers)
    folder, devices = _begin("variants", plan, output, name, gpus, gpu_memory_limit)
    from tfdetect.data.plan import find_data
    from tfdetect.generalization.planned import plan_each
    from tfdetect.generalization.study_report import write_variants
    from tfdetect.generalization.train_matrix import check_each, train_each
    from tfdetect.generalization.variants import measure_variants

    catalog = find_data(plan, progress, log)
    log(
        f"{counted(len(trainings), 'training')} of {counted(len(variants), 'variant')}; folder: "
        f"{folder}"
    )
    wanted = {name: (own, catalog) for name, (_, _, own) in trainings.items()}
    check_each(wanted, devices)
    if dry_run:
        return StudyResults(plan_each(wanted, folder), folder, {})
    runs = train_each(wanted, folder, devices, "study", progress, log)
    values = measure_variants(plan, variants, trainings, runs, catalog)
    write_variants(values, folder)
    return StudyResults(values, folder, runs)


@dataclass(frozen=True)
class MatrixResults:
    """What the trainings of a matrix give on each part.

    Attributes:
        runs: the run of each training, by its name.
        values: the content of matrix.json; of a dry run what would be trained.
        folder: the folder with the runs, matrix.html, matrix.json, CSV and LaTeX tables.
    """

    runs: dict[str, Run] = field(repr=False)
    values: MatrixResult | Planned = field(repr=False)
    folder: Path

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "matrix.html"


@checked
def matrix(
    dataset: str | Path | None = None,
    experiment: str | Path | None = None,
    *,
    model: str | None = None,
    overrides: Overrides = (),
    data_dir: str | Path | None = None,
    authentic: str | None = None,
    by: str = "generator",
    leave_one_out: bool = False,
    leave_sources_out: bool = False,
    published: str | Path | None = None,
    gpus: str | Sequence[int] | None = None,
    gpu_memory_limit: str | None = None,
    output: str | Path = "saved_models",
    name: str | None = None,
    cluster: SparkCluster | None = None,
    dry_run: bool = False,
    progress: bool = True,
    log: console.Log = console.log,
) -> MatrixResults:
    """Train one detector on each generator of a dataset and test each on all generators.

    The same call continues an interrupted one; finished runs are reused.

    Args:
        dataset, experiment, model, overrides, data_dir, authentic: see `train`.
        by: what the parts are: "generator", "dataset" (the parts of a union), or a regular
            expression on paths whose group names the part.
        leave_one_out: train on all parts but one, instead.
        leave_sources_out: with it, leave sources of authentic images out, too; see `--help`.
        published: a published table to show for comparison: "genimage_resnet50" or a CSV file.
        gpus, gpu_memory_limit: see `train`.
        output: folder for the matrix's folder.
        name: name of that folder; by default "matrix-EXPERIMENT-DATASET".
        cluster: a Spark cluster that reads the files and does the trainings; every machine needs
            the dataset, the output and the cluster's folder, by default the matrix's folder with
            the ending .parts, under the same paths.
        dry_run: train nothing: `values` says what would be trained and which runs are reused
            (`generalization.planned.plan_each`), and `runs` is empty.
        progress: whether to show progress.
        log: called with each message.

    Returns:
        Metrics with intervals of each training on each part.

    Raises:
        UserError: the data have fewer than two parts, or the folder holds other runs.
    """
    plan = _plan_of(dataset, experiment, model, overrides, data_dir, authentic)
    if published:
        from tfdetect.generalization.published_tables import read_published

        read_published(str(published))  # refused before any training
    if leave_sources_out and not leave_one_out:
        raise UserError("--leave-sources-out needs --leave-one-out.")
    kind = "matrix-leave-one-out" if leave_one_out else "matrix"
    folder, devices = _begin(kind, plan, output, name, gpus, gpu_memory_limit)
    from tfdetect.data.plan import find_data, roots_of
    from tfdetect.generalization import matrix_report, train_matrix
    from tfdetect.generalization.domains import find_domains
    from tfdetect.generalization.measure_matrix import MatrixRow, matrix_result, measure_cells
    from tfdetect.generalization.planned import plan_each

    with writing_on(None if dry_run else cluster, folder, roots_of(plan), progress) as jobs:
        catalog = find_data(plan, progress, log)
        domains = find_domains(catalog, by, leave_sources_out)
        log(
            f"{counted(len(domains.names), 'training')}: {', '.join(domains.names)}; folder: "
            f"{folder}"
        )
        if domains.left_out:
            console.warn(f"too few fakes, left out: {', '.join(domains.left_out)}")
        trainings = train_matrix.trainings_of(plan, catalog, domains, leave_one_out, log)
        train_matrix.check_each(trainings, devices)
        if dry_run:
            return MatrixResults({}, plan_each(trainings, folder), folder)
        if jobs is not None:
            train_matrix.train_elsewhere(trainings, folder, jobs.train_runs)
        runs = train_matrix.train_each(trainings, folder, devices, "matrix", progress, log)
    trained_on = train_matrix.plan_trainings(domains, leave_one_out)
    rows = [MatrixRow(name, trained_on[name], run) for name, run in runs.items()]
    cells = measure_cells(rows, domains, catalog)
    values = matrix_result(plan.experiment.name, plan.spec.name, by, cells)
    matrix_report.write_report(values, folder, None if published is None else str(published))
    return MatrixResults(runs, values, folder)


@checked
def cluster_generators(matrix: str | Path, *, output: str | Path = "saved_models") -> ClusterResult:
    """Draw which generators belong together: who finds whose images, as clustered heat maps.

    Nothing is trained; `matrix` draws the same in its report.

    Args:
        matrix: the folder of a finished matrix, a published table ("genimage_resnet50"), or a CSV
            file of accuracies in percent.
        output: folder for clusters.png and clusters.json.

    Returns:
        The content of clusters.json: order (the generators), mutual (how well detectors of each
        find images of the other, 0 for chance, 1 for all) and correlation (over the detectors of
        all other generators; None where it is not defined).

    Raises:
        UserError: there is no such matrix, or it has fewer than 3 generators.
    """
    from tfdetect.generalization.clusters import write_clusters

    check_writable(user_path(output))
    return write_clusters(str(matrix), user_path(output))


def _plan_of(
    dataset: str | Path | None, experiment: str | Path | None, model: str | None,
    overrides: Overrides, data_dir: str | Path | None, authentic: str | None,
) -> Plan:  # fmt: skip
    """Resolve the arguments of trainings that are compared: by default none is exported."""
    texts = ["training.export=[]", *override_texts(overrides)]
    return plan_of(dataset, experiment, model, texts, data_dir, authentic)


def _begin(
    kind: str,
    plan: Plan,
    output: str | Path,
    name: str | None,
    gpus: str | Sequence[int] | None,
    gpu_memory_limit: str | None,
) -> tuple[Path, Devices]:
    """Return the folder of a study or matrix, which can be written, and the devices that train."""
    from tfdetect.training.devices import parse_gpus, parse_memory_limit

    numbers, limits = parse_gpus(gpus_of(gpus)), parse_memory_limit(gpu_memory_limit)
    default = file_name(f"{kind}-{plan.experiment.name}-{plan.spec.name}", most=MAX_NAME_BYTES)
    folder = user_path(output) / checked_name(default if name is None else name, "the new folder")
    check_writable(folder)
    import_tensorflow()
    from tfdetect.training.devices import configure_devices

    return folder, configure_devices(numbers, limits)
