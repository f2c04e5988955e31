"""`SparkCluster`: the Spark cluster that a user names. Spark is not imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfdetect.core.errors import UserError


@dataclass(frozen=True)
class SparkCluster:
    """A Spark cluster.

    Attributes:
        master: its address, as Spark has it: "local[4]" (so many processes on this machine),
            "spark://host:7077", "yarn" or "k8s://...".
        conf: properties of Spark, such as {"spark.executor.memory": "4g"}.
        folder: for the parts of a job, on storage that all machines see under the same path; by
            default beside the output.
    """

    master: str
    conf: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


def parse_conf(texts: list[str]) -> dict[str, str]:
    """Return the properties of Spark in texts such as "spark.executor.memory=4g".

    Raises:
        UserError: a text is not of this form.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.startswith("spark."):
            raise UserError(
                "--spark-conf takes a property of Spark and its value, such as "
                f"spark.executor.memory=4g. Received: {text!r}."
            )
        found[key] = value
    return found
