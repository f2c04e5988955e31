"""Functions of the Python API on standard benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfdetect.api.arguments import RunLike, path_of, runs_of
from tfdetect.api.checked import checked
from tfdetect.core import console, storage
from tfdetect.core.errors import UserError
from tfdetect.core.files import check_writable
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.text import user_path


@dataclass(frozen=True)
class BenchmarkResults:
    """What runs scored on suites.

    Attributes:
        values: by suite, the content of SUITE.json.
        output: the folder with SUITE.json, SUITE.html, leaderboard.html, leaderboard.md and
            scores/.
        reports: the page of each suite, by its name.
        leaderboard: the page with all runs and suites in the folder.
        keys: the keys of the runs that were given, as `values` has them.
    """

    values: dict[str, Any] = field(repr=False)
    output: Path
    reports: dict[str, Path]
    leaderboard: Path
    keys: tuple[str, ...] = ()


def list_benchmarks() -> list[str]:
    """Return the names of the shipped benchmark suites."""
    from tfdetect.benchmarks.suite import suite_names

    return sorted(suite_names())


@checked
def benchmark(
    suites: str | Sequence[str],
    runs: RunLike | Sequence[RunLike],
    *,
    data_dir: str | Path | None = None,
    subsets: Sequence[str] = (),
    output: str | Path = "saved_models/benchmarks",
    batch_size: int = 64,
    dry_run: bool = False,
    progress: bool = True,
    log: console.Log = console.log,
) -> BenchmarkResults:
    """Measure runs on standard benchmarks, as published and with equalized formats.

    The same call continues an interrupted one: a subset that a run has scored is not scored again.

    Args:
        suites: names of `list_benchmarks()`, or paths of suites of your own.
        runs: one or more, each as `evaluate` takes it.
        data_dir: the folder of a suite's data, or one that holds each dataset in a folder of the
            name of its dataset spec; by default as for `train`.
        subsets: names of the subsets to score; by default all.
        output: folder for results, which may hold those of other runs and suites.
        batch_size: images per step.
        dry_run: score and write nothing: `values` has, by suite, what would be scored
            (`benchmarks.results.plan_suite`), and there are no pages.
        progress: whether to show progress.
        log: called with each message.

    Raises:
        UserError: a suite or subset is unknown, no image of a suite was found, or a run predicts
            no masks where a suite needs them.
    """
    from tfdetect.benchmarks.suite import load_suite

    names = [suites] if isinstance(suites, str) else list(dict.fromkeys(suites))
    if not names:
        raise UserError(f"Name at least one suite: {', '.join(list_benchmarks())}.")
    whole = [load_suite(name) for name in names]
    chosen = [suite.choose(tuple(subsets)) for suite in whole]
    opened = runs_of(runs)
    if not opened:
        raise UserError("Give at least one run.")
    folder = user_path(output)
    check_writable(folder)
    import_tensorflow()
    from tfdetect.benchmarks import leaderboard, report
    from tfdetect.benchmarks.results import SCORES, plan_suite, run_suite
    from tfdetect.benchmarks.scoring import Scorer, check_runs
    from tfdetect.benchmarks.subset_data import read_subsets

    values: dict[str, Any] = {}
    reports: dict[str, Path] = {}
    check_runs(opened, chosen)
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
    with console.quiet(not progress):
        scorers = [Scorer(run, folder / SCORES, batch_size, progress, log) for run in opened]
        for suite, part in zip(whole, chosen):
            log(f"{suite.title}: looking for the images")
            data = read_subsets(part, path_of(data_dir), progress, log)
            if dry_run:
                values[suite.name] = plan_suite(part, data, scorers)
                continue
            values[suite.name] = run_suite(suite, data, scorers, folder, log)
            reports[suite.name] = report.write_report(suite, values[suite.name], folder)
        page = folder / leaderboard.PAGE
        if not dry_run:
            leaderboard.write_leaderboard(folder)
            storage.publish(folder)
    keys = tuple(scorer.key for scorer in scorers)
    return BenchmarkResults(values, folder, reports, page, keys)
