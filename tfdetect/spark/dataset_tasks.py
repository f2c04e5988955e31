"""Tasks that make something of datasets on the machines of a cluster: read files, write shards,
make forgeries and train runs.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tfdetect.core import console
from tfdetect.core.open_run import is_finished
from tfdetect.spark.executor import Function
from tfdetect.spark.items import failed_row, files_of, unpack_rows

if TYPE_CHECKING:
    from tfdetect.data.catalog import Catalog
    from tfdetect.data.plan import Plan
    from tfdetect.data.shard_writer import Copies
    from tfdetect.synthesis.forge import Row
    from tfdetect.synthesis.forge_task import ForgeTask
    from tfdetect.synthesis.forgery_plan import Item
    from tfdetect.training.devices import Devices

_TRAINED = pa.schema([("path", pa.string()), ("error", pa.string())])


@dataclass(frozen=True)
class ReadFiles:
    """Calls a function for each file, as `data.parallel.read_all` does.

    Items are those of `items_of`.

    Attributes:
        read: called with a file; returns its row, a tuple.
        ended: called with a file that ends the process that reads it; returns its row.
        columns: the schema of the rows.
    """

    read: Callable[..., tuple]
    ended: Callable[..., tuple]
    columns: pa.Schema

    def start(self, threads: int) -> Function:
        return lambda items: self._table([self.read(file) for file in files_of(items)])

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return self._table([self.ended(file) for file in files_of(item)])

    def _table(self, rows: list[tuple]) -> pa.Table:
        columns = zip(*rows) if rows else [()] * len(self.columns)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, self.columns)], self.columns)


@dataclass(frozen=True)
class WriteShards:
    """Writes shards of a dataset, as `prepare` does.

    Items are those of `items_with_rows`, with the column shard, its name. The rows that it returns
    have the columns shard and written, a `ShardRow` as JSON.

    Attributes:
        catalog: the dataset, without its rows.
        folder: where the shards are written.
        copies: how images are stored.
        with_masks: whether records hold masks.
    """

    catalog: "Catalog"
    folder: Path
    copies: "Copies"
    with_masks: bool

    def start(self, threads: int) -> Function:
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
        from tfdetect.data.shard_writer import ShardWriter

        writer = ShardWriter(self.catalog, self.folder, self.copies, self.with_masks)
        bar, stop = console.Progress(None, "", "", 0), threading.Event()

        def rows(items: pa.Table) -> pa.Table:
            written = [
                json.dumps(writer.write(shard, unpack_rows(data), bar, stop))
                for shard, data in zip(items["shard"].to_pylist(), items["rows"])
            ]
            return pa.table([items["shard"], pa.array(written, pa.string())], ["shard", "written"])

        return rows

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return failed_row(schema, shard=item["shard"][0].as_py())


@dataclass(frozen=True)
class MakeForgeries:
    """Makes and writes forgeries, as `synthesize` does.

    Items have the column item: the values of an `Item`, as JSON. The rows that it returns have the
    column row: a `Row` as JSON.

    Attributes:
        task: how forgeries are made, with absolute folders that every machine sees.
    """

    task: "ForgeTask"

    def start(self, threads: int) -> Function:
        return lambda items: self._table([self.task.make(item) for item in _forgeries(items)])

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return self._table([self.task.failed(each) for each in _forgeries(item)])

    def _table(self, rows: "list[Row]") -> pa.Table:
        return pa.table({"row": pa.array(map(json.dumps, rows), pa.string())})


def _forgeries(items: pa.Table) -> "list[Item]":
    """Return what items describe; see `MakeForgeries`."""
    from tfdetect.synthesis.forgery_plan import Item

    return [Item(*values) for values in files_of(items)]


@dataclass(frozen=True)
class TrainRuns:
    """Trains runs, as `matrix` does.

    Items are those of `items_with_rows`, with the column path, where a run is written. The rows
    that it returns have the columns path and error.

    Attributes:
        plan: the experiment and the dataset spec of the trainings.
        catalog: the dataset, without its rows.
        command: the command that the runs record.
    """

    plan: "Plan"
    catalog: "Catalog"
    command: str

    def start(self, threads: int) -> Function:
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
        from tfdetect.training.devices import configure_devices

        devices = configure_devices()

        def rows(items: pa.Table) -> pa.Table:
            for path, data in zip(items["path"].to_pylist(), items["rows"]):
                self._train(Path(path), unpack_rows(data), devices)
            return pa.table([items["path"], pa.nulls(items.num_rows, pa.string())], _TRAINED)

        return rows

    def _train(self, path: Path, rows: pa.Table, devices: "Devices") -> None:
        """Train one run at a path on rows of the catalog."""
        import keras

        from tfdetect.train_run import train_run
        from tfdetect.training.training_job import TrainingJob

        if is_finished(path):  # Spark gave the partition to another process before
            return
        catalog = replace(self.catalog, table=rows)
        job = TrainingJob(self.plan, catalog, devices, path, False, lambda text: None)
        train_run(job, images_in_report=False, command=self.command)
        keras.backend.clear_session(free_memory=True)

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        reason = "its process ended. It may need too much memory"
        return failed_row(schema, path=item["path"][0].as_py(), error=reason)
