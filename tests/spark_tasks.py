"""Work for the machines of a Spark cluster, whose Python processes import this."""

import os
import signal
from dataclasses import dataclass

import pyarrow as pa

from tfdetect.spark.items import failed_row
from tfdetect.spark.run_tasks import PredictFiles

SCHEMA = pa.schema([("path", pa.string()), ("error", pa.string())])


def _end_if_deadly(items):
    if any("deadly" in path for path in items["path"].to_pylist()):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Names:
    """Returns the paths; one with "deadly" ends the process."""

    def start(self, threads):
        def rows(items):
            _end_if_deadly(items)
            return pa.table([items["path"], pa.nulls(len(items), pa.string())], SCHEMA)

        return rows

    def failed(self, item, schema):
        return failed_row(schema, path=item["path"][0].as_py(), error="ended")


class DeadlyPredictFiles(PredictFiles):
    """Gives verdicts; an image whose name contains "deadly" ends the process."""

    def start(self, threads):
        predict = super().start(threads)

        def rows(items):
            _end_if_deadly(items)
            return predict(items)

        return rows
