"""Trains on each domain, or on all but each, and tests on every one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import override
from tfdetect.core.provenance import command_line
from tfdetect.core.run import Run, open_run
from tfdetect.data.catalog import Catalog, check_trainable
from tfdetect.data.plan import Plan, describe_data
from tfdetect.evaluation.metrics import binary_metrics, with_intervals
from tfdetect.generalization.domains import Domains, restrict
from tfdetect.train_run import train_run

METRICS = ("accuracy", "balanced_accuracy", "auc", "ap", "recall_at_fpr_1", "recall_at_fpr_5")
_RESAMPLES = 500


def trained_on(domains: Domains, leave_one_out: bool) -> dict[str, set[str]]:
    """The domains that each training sees, by its name."""
    if not leave_one_out:
        return {name: {name} for name in domains.names}
    return {f"all but {name}": set(domains.names) - {name} for name in domains.names}


def train_all(
    plan: Plan,
    catalog: Catalog,
    domains: Domains,
    leave_one_out: bool,
    folder: Path,
    devices,
    progress: bool = True,
    log: Callable[[str], None] = console.log,
) -> dict[str, Run]:
    """One run for each training; finished ones are reused, an unfinished one is resumed.

    Args:
        folder: for the runs.

    Raises:
        UserError: a run there is of other data or another experiment, or a training has no image
            of a class.
    """
    import keras

    runs, parts = {}, {}
    for name, chosen in trained_on(domains, leave_one_out).items():
        parts[name] = restrict(catalog, domains, chosen)
        check_trainable(plan.spec, parts[name])
    fewest = min(part.split("train").num_rows for part in parts.values())
    if fewest < plan.experiment.training.batch_size:  # the same for all, to be compared
        log(f"batches of {fewest} images: the smallest training has no more")
        experiment = override(plan.experiment, [f"training.batch_size={fewest}"])
        plan = replace(plan, experiment=experiment)
    for name, part in parts.items():
        path = folder / _file_name(name)
        if path.is_dir():
            run = open_run(path)
            same = run.info.dataset.fingerprint == part.fingerprint()
            if not same or run.document != plan.experiment.to_yaml():
                raise UserError(
                    f"{path} was trained on other data or by another experiment. Name another "
                    "folder with --name, or remove it."
                )
        else:
            log(f"training on {name}: {describe_data(plan, part)}")
            run = train_run(
                plan, part, path, devices, images_in_report=False, progress=progress, log=log,
                command=command_line("matrix"),
            )  # fmt: skip
            keras.backend.clear_session(free_memory=True)
        runs[name] = run
    return runs


def measure(runs: dict[str, Run], domains: Domains, catalog: Catalog) -> dict:
    """Metrics of each run on each domain's test images.

    Returns:
        {name of the training: {domain: {count, seen, metrics}}}; recall_at_fpr_1 and _5 are at
        the thresholds that were chosen on the run's own validation split, null where it had too
        few images for them.
    """
    tests = {}
    split = np.array(catalog.table["split"].to_pylist()) == "test"
    keys = [key for key, test in zip(_keys(catalog.table), split) if test]
    fakes = catalog.table["label"].to_numpy()[split] > 0
    for training, run in runs.items():
        predicted = pq.read_table(run.path / "predictions" / "test.parquet")
        said = dict(zip(_keys(predicted), predicted["p_fake"].to_pylist()))
        scores = np.array([said[key] for key in keys], np.float32)  # nan where it broke since
        tests[training] = {}
        for name in domains.names:
            mine = domains.rows({name})[split] & np.isfinite(scores)
            fake, p = fakes[mine], scores[mine]
            seen = name in _seen(training, domains)
            tests[training][name] = {
                "count": len(p), "seen": seen,
                "metrics": with_intervals(_metrics(fake, p, run), len(p), resamples=_RESAMPLES),
            }  # fmt: skip
    return tests


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    names = table["dataset"].cast(pa.string()).to_pylist()
    return list(zip(names, table["path"].to_pylist()))


def _seen(training: str, domains: Domains) -> set[str]:
    if training in domains.names:
        return {training}
    return set(domains.names) - {training.removeprefix("all but ")}


def _metrics(fake: np.ndarray, p: np.ndarray, run: Run):
    metrics = binary_metrics(fake, p, run.threshold)
    points = run.info.operating_points

    def some(weights: np.ndarray) -> dict[str, float]:
        values = metrics(weights)
        there = weights[fake].sum()
        for name in ("fpr_1", "fpr_5"):
            called = p >= points[name].threshold if name in points else None
            found = weights[fake & called].sum() / there if called is not None and there else np.nan
            values[f"recall_at_{name}"] = found
        return {name: values[name] for name in METRICS}

    return some


def _file_name(name: str) -> str:
    text = "".join(c if c.isalnum() else "_" for c in name.lower())
    return text.strip("_") or "none"
