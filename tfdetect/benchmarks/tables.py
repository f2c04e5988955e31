"""Tables of results, for the terminal and for pages."""

from collections.abc import Sequence

from tfdetect.benchmarks.result_types import ProtocolResult, RunResult, SubsetResult, SuiteResult
from tfdetect.benchmarks.results import PROTOCOLS, labels, our_figures, published_mean
from tfdetect.benchmarks.suite import EQUALIZED, METRICS, PUBLISHED, PublishedTable, Suite
from tfdetect.core import console
from tfdetect.core.run_results import Metrics
from tfdetect.core.text import capitalized
from tfdetect.evaluation.intervals import format_interval
from tfdetect.evaluation.metrics import NAMES

PROTOCOL_NAMES = {PUBLISHED: "as published", EQUALIZED: "format-equalized"}
OURS = "tfdetect: "  # before the name of a run in a published table
Rows = tuple[list[str], list[list[str]]]


def names_of(metric: str) -> str:
    """Return a metric's name for people."""
    return METRICS.get(metric) or NAMES.get(metric, metric)  # type: ignore[call-overload]


def shown_metrics(task: str) -> tuple[str, ...]:
    """Return the metrics that a table of subsets has, the most important first."""
    return ("accuracy", "ap", "auc") if task == "images" else ("pixel_f1", "pixel_iou", "auc")


def subset_rows(document: SuiteResult, entry: RunResult) -> Rows:
    """Return the results of a run: a line for each subset, and one for the mean.

    Args:
        document: the document of a suite, from `run_suite`.
        entry: one of its runs.
    """
    main, *others = shown_metrics(document["task"])
    headers = ["subset", "images", names_of(main), f"{names_of(main)}, format-equalized",
               "by format alone", *map(names_of, others)]  # fmt: skip
    published, equalized = (entry["protocols"][name] for name in PROTOCOLS)
    rows = []
    for name, about in entry["data"].items():
        if about["missing"]:
            rows.append([name, "missing", *["-"] * (len(headers) - 2)])
            continue
        first, second = published["subsets"][name], equalized["subsets"][name]
        rows.append([
            name, f"{first['count']:,}", _cell(first["metrics"], main),
            _cell(second["metrics"], main), _metadata(first),
            *(_cell(first["metrics"], metric) for metric in others),
        ])  # fmt: skip
    if len(entry["data"]) > 1:
        means = published["mean"], equalized["mean"]
        rows.append([
            f"mean of {_of(published)}", "", _cell(means[0], main), _cell(means[1], main), "",
            *(_cell(means[0], metric) for metric in others),
        ])  # fmt: skip
    return headers, rows


def run_rows(document: SuiteResult) -> Rows:
    """Return the means of all runs of a suite, the best first; see `ranked`."""
    main, *others = shown_metrics(document["task"])
    headers = ["run", "subsets", names_of(main), f"{names_of(main)}, format-equalized",
               *map(names_of, others), "parameters"]  # fmt: skip
    names = {id(entry): label for label, entry in zip(labels(document["runs"]), document["runs"])}
    rows = []
    for entry in ranked(document):
        published, equalized = (entry["protocols"][name] for name in PROTOCOLS)
        means = published["mean"], equalized["mean"]
        rows.append([
            names[id(entry)], _of(published), _cell(means[0], main), _cell(means[1], main),
            *(_cell(means[0], metric) for metric in others), f"{entry['parameters']:,}",
        ])  # fmt: skip
    return headers, rows


def ranked(document: SuiteResult) -> list[RunResult]:
    """Return the runs of a suite's results by the mean of its main metric, as published.

    Those that lack subsets follow after the others.
    """

    def rank(entry: RunResult) -> tuple[bool, float]:
        protocol = entry["protocols"][PUBLISHED]
        found = protocol["mean"].get(document["metric"])
        mean = -1 if found is None or found["value"] is None else found["value"]
        return len(protocol["subsets"]) == protocol["of"], mean

    return sorted(document["runs"], key=rank, reverse=True)


def published_rows(table: PublishedTable, runs: Sequence[RunResult]) -> Rows:
    """Return a published table, with a line for each run of ours below.

    Args:
        table: the table.
        runs: the runs of SUITE.json.
    """
    digits = 1 if table.unit == "percent" else 3
    found = [(method, [*v[:-1], published_mean(v)]) for method, v in table.rows.items()]
    for label, entry in zip(labels(runs), runs):
        values, mean = our_figures(table, entry)
        found.append((OURS + label, [*values, mean]))
    columns = [*table.subsets, "mean"]
    if len(table.subsets) == 1:  # it is its own mean
        columns, found = columns[:1], [(method, values[:1]) for method, values in found]
    rows = [[method, *(_number(v, digits) for v in values)] for method, values in found]
    return ["method", *columns], rows


def describe_table(table: PublishedTable) -> str:
    """Return what the figures of a published table are."""
    unit = " in percent" if table.unit == "percent" else ""
    ours = "" if table.protocol == PUBLISHED else "; ours are the format-equalized ones"
    return f"{capitalized(names_of(table.metric))}{unit}{ours}."


def format_benchmark(suite: Suite, document: SuiteResult, keys: Sequence[str]) -> str:
    """Return the results of some runs, and the published tables, as text for the terminal.

    Args:
        suite: the suite.
        document: its results.
        keys: the keys of the runs to show.
    """
    runs = [entry for entry in document["runs"] if entry["key"] in keys]
    parts = []
    for label, entry in zip(labels(runs), runs):
        headers, rows = subset_rows(document, entry)
        parts.append(console.format_table(rows, headers, f"{label} on {suite.title}"))
    for table in suite.published:
        headers, rows = published_rows(table, runs)
        title = f"{table.title}: {describe_table(table)}"
        parts.append(f"{console.format_table(rows, headers, title)}\nsource: {table.source}")
    return "\n\n".join(parts)


def _of(protocol: ProtocolResult) -> str:
    """Return how many of the suite's subsets there are."""
    count = len(protocol["subsets"])
    return str(count) if count == protocol["of"] else f"{count} of {protocol['of']}"


def _cell(metrics: Metrics, metric: str) -> str:
    return format_interval(metrics.get(metric), 3)


def _metadata(part: SubsetResult) -> str:
    found = part.get("metadata")
    return format_interval(found["balanced_accuracy"], 3) if found else "-"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
