"""Runs suites, and keeps what was measured: one JSON file per suite, for any number of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

from tfdetect import __version__
from tfdetect.benchmarks.measure_subsets import mean_over, measure_subset, share_images
from tfdetect.benchmarks.result_types import (
    PlannedScores,
    ProtocolResult,
    RunResult,
    SubsetFacts,
    SuiteResult,
)
from tfdetect.benchmarks.scoring import Scorer
from tfdetect.benchmarks.subset_data import SubsetData
from tfdetect.benchmarks.suite import EQUALIZED, PUBLISHED, ProtocolName, PublishedTable, Suite
from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_json
from tfdetect.core.locks import locked
from tfdetect.core.parsing import read_object
from tfdetect.core.run_results import Metrics
from tfdetect.core.text import from_os

PROTOCOLS: tuple[ProtocolName, ...] = (PUBLISHED, EQUALIZED)
SCHEMA = 1
SCORES = "scores"  # folder of the scores of single images
T = TypeVar("T")


def run_suite(
    suite: Suite,
    data: Sequence[SubsetData],
    scorers: Sequence[Scorer],
    output: Path,
    log: console.Log,
) -> SuiteResult:
    """Score and measure subsets of a suite with each run; add the results to the output folder.

    Args:
        suite: the whole suite.
        data: the subsets to score, from `read_subsets`. What the folder has of the others, by the
            same run, is kept.
        scorers: one for each run.
        output: the folder for results.
        log: called with each line of progress.

    Returns:
        The content of SUITE.json, with the runs that were measured before.
    """
    shared, present = share_images(data), [part for part in data if not part.missing]
    entries: list[RunResult] = []
    for scorer in scorers:
        log(f"{scorer.run.name} on {suite.title}")
        protocols: dict[ProtocolName, ProtocolResult] = {}
        for protocol in PROTOCOLS:
            found = {}
            for part in present:
                scores = scorer.score(suite, part, protocol)
                found[part.subset.name] = measure_subset(suite, part, protocol, scores)
                facts = scores.facts
            protocols[protocol] = {
                "subsets": found, "mean": {}, "of": len(suite.subsets), "shared": shared,
            }  # fmt: skip
        entries.append({
            "name": scorer.run.name, "path": from_os(scorer.run.path.resolve()),
            "key": scorer.key, "parameters": facts.parameters, "device": facts.device,
            "data": {part.subset.name: _about(part) for part in data}, "protocols": protocols,
        })  # fmt: skip
    order = [subset.name for subset in suite.subsets]
    with locked(output / ".results.lock"):
        known = _known(output / f"{suite.name}.json")
        document: SuiteResult = {
            "schema": SCHEMA, "version": __version__, "suite": suite.name, "title": suite.title,
            "task": suite.task, "metric": suite.main_metric, "runs": _merged(known, entries, order),
        }  # fmt: skip
        write_json(output / f"{suite.name}.json", document)
    return document


def plan_suite(
    suite: Suite, data: Sequence[SubsetData], scorers: Sequence[Scorer]
) -> list[PlannedScores]:
    """Return what `run_suite` would score.

    Args:
        suite, data, scorers: see `run_suite`.
    """
    return [
        {"run": scorer.run.name, "subset": part.subset.name, "protocol": protocol,
         "images": part.rows.num_rows, "scored": scorer.has_scored(suite, part, protocol)}
        for scorer in scorers for protocol in PROTOCOLS for part in data if not part.missing
    ]  # fmt: skip


def read_results(output: Path) -> list[SuiteResult]:
    """Return the results of all suites in a folder, in the order of their names."""
    return [found for file in sorted(output.glob("*.json")) if (found := _document(file))]


def labels(runs: Sequence[RunResult]) -> list[str]:
    """Return a name for each run: its own, or its path where others have the same name."""
    names = [run["name"] for run in runs]
    return [n if names.count(n) == 1 else run["path"] for n, run in zip(names, runs)]


def our_figures(table: PublishedTable, entry: RunResult) -> tuple[list[float | None], float | None]:
    """Return a run's figures for the columns of a published table, in its unit, and their mean.

    The mean is missing where one of the columns is. For a table that has only means, it is that
    of all subsets of the suite.

    Args:
        table: the table.
        entry: a run of SUITE.json.
    """
    factor = 100 if table.unit == "percent" else 1
    found = entry["protocols"][table.protocol]
    parts = [found["subsets"].get(name) for name in table.subsets]
    values = [None if part is None else _value(part["metrics"], table.metric) for part in parts]
    if table.subsets:
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if len(known) == len(values) else None
    else:
        complete = len(found["subsets"]) == found["of"]
        mean = _value(found["mean"], table.metric) if complete else None
    scaled = [None if value is None else factor * value for value in values]
    return scaled, None if mean is None else factor * mean


def published_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of a published row: as published, or else that of its figures if complete."""
    *figures, mean = values
    if mean is not None or not figures or None in figures:
        return mean
    return sum(value for value in figures if value is not None) / len(figures)


def _value(metrics: Metrics, metric: str) -> float | None:
    return metrics.get(metric, {}).get("value")


def _about(part: SubsetData) -> SubsetFacts:
    return {
        "dataset": part.catalog.name if part.catalog else part.subset.dataset,
        "found": part.found, "missing": part.missing, "differences": list(part.differences),
    }  # fmt: skip


def _known(path: Path) -> list[RunResult]:
    """Return the runs in a results file; none if there is no such file.

    Raises:
        UserError: the file is something else, which is not overwritten.
    """
    if not path.exists():
        return []
    if (found := _document(path)) is None:
        raise UserError(f"{path} is not a result of this command. Choose another --output.")
    return found["runs"]


def _document(path: Path) -> SuiteResult | None:
    try:
        found = read_object(path)
    except UserError:
        return None
    if found.get("schema") != SCHEMA or not {"suite", "runs"} <= set(found):
        return None
    return cast(SuiteResult, found)


def _merged(known: list[RunResult], new: list[RunResult], order: list[str]) -> list[RunResult]:
    """Return the entries of both, where a run that was measured again has one entry.

    Args:
        known, new: entries of runs; means are computed here.
        order: names of the suite's subsets.
    """
    paths = {entry["path"] for entry in new}
    earlier = {(entry["path"], entry["key"]): entry for entry in known}
    for entry in new:
        before = earlier.get((entry["path"], entry["key"]))
        entry["data"] = _joined(before["data"] if before else {}, entry["data"], order)
        for name, protocol in entry["protocols"].items():
            old = before["protocols"][name]["subsets"] if before else {}
            protocol["subsets"] = _joined(old, protocol["subsets"], order)
            protocol["shared"] |= before is not None and before["protocols"][name]["shared"]
            protocol["mean"] = mean_over(list(protocol["subsets"].values()), protocol["shared"])
    return [entry for entry in known if entry["path"] not in paths] + new


def _joined(old: dict[str, T], new: dict[str, T], order: list[str]) -> dict[str, T]:
    both = old | new
    return {name: both[name] for name in order if name in both}
