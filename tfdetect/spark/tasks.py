"""What the machines of a cluster do with the items of a job."""

import json
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tfdetect.core import addresses, console, storage
from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import is_finished
from tfdetect.core.run import Run
from tfdetect.core.text import to_os, user_path
from tfdetect.data.parallel import ENDED, Paths
from tfdetect.spark.executor import Function
from tfdetect.spark.job import digest_files

if TYPE_CHECKING:
    from tfdetect.data.catalog import Catalog
    from tfdetect.data.plan import Plan
    from tfdetect.data.shard_writer import Copies
    from tfdetect.synthesis.forge import Row
    from tfdetect.synthesis.forge_task import ForgeTask
    from tfdetect.synthesis.forgery_plan import Item
    from tfdetect.training.devices import Devices

ONNX, TENSORFLOW = "ONNX Runtime", "TensorFlow"
_EXPLAINED = pa.schema([("explained", pa.binary()), ("error", pa.string())])
_TRAINED = pa.schema([("path", pa.string()), ("error", pa.string())])


def run_digest(run: Run, runtime: str) -> str:
    """Return a hex digest of the files of a run that decide its verdicts."""
    model = run.model_path if runtime == TENSORFLOW else run.onnx_path  # knows what it shares
    names = ("run.json", "experiment.yaml", "ensemble.yaml", "domain.npy", "training_images.npy")
    files = [run.path / name for name in names]
    return digest_files(files if model is None else [model, *files])


def check_run(run: Run, runtime: str, expected: str) -> None:
    """Check that a machine has the files of a run that the job was begun with.

    Raises:
        UserError: it has others, or none.
    """
    if not (run.path / "run.json").is_file():
        raise UserError(
            f"it does not see the run {run.path}. Every machine of the cluster needs it under the "
            "same path"
        )
    if run_digest(run, runtime) != expected:
        raise UserError(
            f"the run {run.path} is not the one that the job was begun with: it was changed, or "
            "this machine has another one"
        )


def failed_row(schema: pa.Schema, **known: str) -> pa.Table:
    """Return a row of a schema of which only some columns of text are known."""
    return pa.Table.from_pylist([known], schema)


@dataclass(frozen=True)
class PredictFiles:
    """Gives verdicts on files; its rows are those of `tfdetect predict`.

    Items have the column path, as `from_os` makes it, or an address.

    Attributes:
        run: with all settings.
        address: of the run, if it was named by one (`core.storage`); each machine fetches it.
        digest: of the run's files.
        runtime: `ONNX` or `TENSORFLOW`.
        base: folder to which paths are relative.
        batch_size: images a batch.
        max_pixels: images with more pixels are refused.
    """

    run: Run
    address: str | None
    digest: str
    runtime: str
    base: str
    batch_size: int
    max_pixels: int

    def start(self, threads: int) -> Function:
        run = self.run
        if self.address is not None:
            run = replace(run, path=storage.fetched(user_path(self.address)))
        check_run(run, self.runtime, self.digest)
        use = self._with_onnx if self.runtime == ONNX else self._with_tensorflow
        predict = use(run, threads)

        def rows(items: pa.Table) -> pa.Table:
            names = items["path"].to_pylist()
            paths = [
                str(addresses.local_path(n) or os.path.join(self.base, to_os(n))) for n in names
            ]
            with tempfile.TemporaryDirectory() as folder:
                found = storage.in_turns(paths, Path(folder, "fetched"), len(paths) or 1)
                [(files, failed)] = found
                table = predict(files)
            errors = table["error"].to_pylist()
            for number, reason in failed.items():
                errors[number] = reason
            return with_columns(
                table, error=pa.array(errors, pa.string()), path=pa.array(names, pa.string())
            )

        return rows

    def _with_onnx(self, run: Run, threads: int) -> Callable[[list[str]], pa.Table]:
        from tfdetect.light.onnx_detector import LightDetector
        from tfdetect.light.onnx_predictions import predict_files

        detector = LightDetector(run, threads)
        return lambda paths: predict_files(
            detector, paths, batch_size=self.batch_size, progress=False,
            max_pixels=self.max_pixels, threads=threads,
        ).to_arrow()  # fmt: skip

    def _with_tensorflow(self, run: Run, threads: int) -> Callable[[list[str]], pa.Table]:
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
        from tfdetect.evaluation.predictions import CompiledDetector, predict_files
        from tfdetect.models.saving import load_detector

        compiled = CompiledDetector(run, load_detector(run))
        return lambda paths: predict_files(
            run, compiled, paths, batch_size=self.batch_size, progress=False,
            max_pixels=self.max_pixels,
        ).to_arrow()  # fmt: skip

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return failed_row(schema, path=item["path"][0].as_py(), error=ENDED)


@dataclass(frozen=True)
class PredictRows:
    """Predicts rows of a dataset; see `evaluate_run.predict_rows`.

    Items have the columns of the catalog.

    Attributes:
        run: with all settings.
        digest: of the run's files.
        catalog: the dataset, without its rows.
        batch_size: images a batch.
        own_validation: see `predict_source`.
    """

    run: Run
    digest: str
    catalog: "Catalog"
    batch_size: int
    own_validation: bool

    def start(self, threads: int) -> Function:
        check_run(self.run, TENSORFLOW, self.digest)
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
        from tfdetect.evaluation.evaluate_run import predict_rows
        from tfdetect.evaluation.predictions import CompiledDetector
        from tfdetect.models.saving import load_detector

        compiled = CompiledDetector(self.run, load_detector(self.run))
        return lambda rows: predict_rows(
            self.run, self.catalog, rows, self.own_validation,
            detector=compiled, batch_size=self.batch_size, progress=False,
        )  # fmt: skip

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return failed_row(schema, error=ENDED)


@dataclass(frozen=True)
class ReadFiles:
    """Reads files as `data.parallel.read_all` does.

    Items have the column path, or item: a list of values as JSON.

    Attributes:
        read: returns a file's row.
        ended: returns the row of a file that ends the process that reads it.
        columns: of the rows.
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
class ExplainRows:
    """Explains rows of a dataset, as `explain` does.

    Items have the columns of the catalog and number. Rows have the column explained, a pickled
    `ExplainedImage`, null for an image that cannot be read, and error.

    Attributes:
        run: with all settings.
        digest: of the run's files.
        catalog: the dataset, without its rows.
        stages: see `explain_set`.
    """

    run: Run
    digest: str
    catalog: "Catalog"
    stages: tuple[str, ...]

    def start(self, threads: int) -> Function:
        check_run(self.run, TENSORFLOW, self.digest)
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
        from tfdetect.explanation.image_explainer import ImageExplainer

        explainer = ImageExplainer(self.run, self.stages)

        def rows(items: pa.Table) -> pa.Table:
            found: list[bytes | None] = []
            for number in range(items.num_rows):
                images = explainer.explain(self.catalog, items.slice(number, 1))
                found.append(next((pickle.dumps(image) for image in images), None))
            return pa.table([pa.array(found, pa.binary()), pa.nulls(len(found), pa.string())],
                            _EXPLAINED)  # fmt: skip

        return rows

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return failed_row(schema, error=ENDED)


@dataclass(frozen=True)
class WriteShards:
    """Writes shards as `prepare` does.

    Items have the columns shard, its name, and rows, the rows of the catalog as an Arrow file.

    Attributes:
        catalog: the dataset, without its rows.
        folder: for the shards.
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
                json.dumps(writer.write(shard, _unpacked(data), bar, stop))
                for shard, data in zip(items["shard"].to_pylist(), items["rows"])
            ]
            return pa.table([items["shard"], pa.array(written, pa.string())], ["shard", "written"])

        return rows

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return failed_row(schema, shard=item["shard"][0].as_py())


@dataclass(frozen=True)
class MakeForgeries:
    """Makes and writes forgeries as `synthesize` does.

    Items have the column item: the values of an `Item`, as JSON. Rows are JSON, too.

    Attributes:
        task: with absolute folders, which every machine sees.
    """

    task: "ForgeTask"

    def start(self, threads: int) -> Function:
        return lambda items: self._table([self.task.make(item) for item in _forgeries(items)])

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return self._table([self.task.failed(each) for each in _forgeries(item)])

    def _table(self, rows: "list[Row]") -> pa.Table:
        return pa.table({"row": pa.array(map(json.dumps, rows), pa.string())})


def _forgeries(items: pa.Table) -> "list[Item]":
    from tfdetect.synthesis.forgery_plan import Item

    return [Item(*values) for values in files_of(items)]


@dataclass(frozen=True)
class TrainRuns:
    """Trains runs, as `matrix` does.

    Items have the columns path, where the run is written, and rows, what it is trained on: rows of
    the catalog as an Arrow file. Rows have the columns path and error.

    Attributes:
        plan: of the trainings.
        catalog: the dataset, without its rows.
        command: that the runs record.
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
                self._train(Path(path), _unpacked(data), devices)
            return pa.table([items["path"], pa.nulls(items.num_rows, pa.string())], _TRAINED)

        return rows

    def _train(self, path: Path, rows: pa.Table, devices: "Devices") -> None:
        import keras

        from tfdetect.train_run import TrainingJob, train_run

        if is_finished(path):  # Spark gave the partition to another process before
            return
        catalog = replace(self.catalog, table=rows)
        job = TrainingJob(self.plan, catalog, devices, path, False, lambda text: None)
        train_run(job, images_in_report=False, command=self.command)
        keras.backend.clear_session(free_memory=True)

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return failed_row(schema, path=item["path"][0].as_py(), error=ENDED)


def items_with_rows(name: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return items that are rows of a catalog each: a column of that name, and rows."""
    data = []
    for rows in tables.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        data.append(sink.getvalue().to_pybytes())
    return pa.table(
        {name: pa.array(list(tables), pa.string()), "rows": pa.array(data, pa.binary())}
    )


def _unpacked(data: pa.Scalar) -> pa.Table:
    return pa.ipc.open_file(data.as_buffer()).read_all()


def without_rows(catalog: "Catalog") -> "Catalog":
    """Return a catalog without its rows, small enough to be sent to every machine."""
    return replace(
        catalog, table=catalog.table.slice(0, 0), skipped=catalog.skipped.slice(0, 0),
        left_out=catalog.left_out.slice(0, 0), warnings=(),
    )  # fmt: skip


def items_of(files: Iterable) -> pa.Table:
    """Return the items of `ReadFiles`: of paths, or of tuples that begin with one."""
    if isinstance(files, Paths):
        return pa.table({"path": files.texts})
    return pa.table({"item": pa.array(map(json.dumps, files), pa.string())})


def files_of(items: pa.Table) -> list:
    """Return the files that `items_of` was given."""
    if "path" in items.column_names:
        return list(map(to_os, items["path"].to_pylist()))
    found = map(json.loads, items["item"].to_pylist())
    return [tuple(file) if isinstance(file, list) else file for file in found]
