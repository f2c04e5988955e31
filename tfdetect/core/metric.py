"""`Metric`: the value of a metric, with its interval."""

from typing import TypeVar

from tfdetect.core.errors import UserError, UserKeyError, unknown
from tfdetect.core.run_results import SplitResults


class Metric(float):
    """A metric's value with its 95% interval: a float with the attributes `low` and `high`.

    A single image has no interval: both are None.
    """

    low: float | None
    high: float | None

    def __new__(cls, value: float, low: float | None, high: float | None) -> "Metric":
        metric = super().__new__(cls, value)
        metric.low, metric.high = low, high
        return metric

    def __reduce__(self) -> tuple:  # to copy and to pickle
        return Metric, (float(self), self.low, self.high)

    def __repr__(self) -> str:
        if self.low is None or self.high is None:
            return f"{float(self):.4f}"
        return f"{float(self):.4f} [{self.low:.4f}, {self.high:.4f}]"


Value = TypeVar("Value")


class Named(dict[str, Value]):
    """A dict that names what it has where a key is missing, in a `UserKeyError`."""

    kind = ""  # what a key names

    def __missing__(self, name: object) -> Value:
        raise UserKeyError(str(unknown(self.kind, str(name), self)))


class Splits(Named[Named[Metric]]):
    """What was measured on each split."""

    kind = "split"


class Metrics(Named[Metric]):
    """The metrics of a split."""

    kind = "metric"


def metrics_of(results: SplitResults) -> Splits:
    """Return the metrics of each split by name, from the content of a metrics.json.

    Raises:
        UserError: it is no content of one.
    """
    try:
        return Splits({
            split: Metrics({
                name: Metric(value["value"], value["low"], value["high"])
                for name, value in part.get("metrics", {}).items()
                if value["value"] is not None
            })
            for split, part in results.items()
        })  # fmt: skip
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"These are no metrics that evaluate has written: {error}.") from error
