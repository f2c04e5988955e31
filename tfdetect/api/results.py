"""What functions of the Python API on finished runs return."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfdetect.core.metric import Splits, metrics_of
from tfdetect.core.run import Run


@dataclass(frozen=True)
class Results:
    """What a command measured, and where it wrote it.

    Attributes:
        run: the run that was measured.
        values: the results as plain dicts, lists and numbers, as in the JSON file in `output`.
        output: folder with the JSON file, figures and the report.
        report: the HTML page.
    """

    run: Run
    values: Any = field(repr=False)
    output: Path
    report: Path


@dataclass(frozen=True)
class EvaluationResults(Results):
    """The results of an evaluation; `values` is the content of metrics.json."""

    @property
    def metrics(self) -> Splits:
        """The metrics of each split by name: `results.metrics["test"]["auc"]`.

        A metric is a float with the attributes `low` and `high`, its 95% interval. A name that is
        not there is a `UserError`, and a KeyError, that lists those that are.
        """
        return metrics_of(self.values)
