"""What the machines of a cluster do with the items of a job."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.text import to_os
from tfdetect.spark.executor import ENDED, Function
from tfdetect.spark.job import digest_files

if TYPE_CHECKING:
    from tfdetect.data.catalog import Catalog

ONNX, TENSORFLOW = "ONNX Runtime", "TensorFlow"


def run_digest(run: Run, runtime: str) -> str:
    """Return a hex digest of the files of a run that decide its verdicts."""
    models = [run.model_path] if runtime == TENSORFLOW else []
    if runtime == ONNX:
        models = sorted((run.path / "exports").glob("*.onnx"))
    names = ("run.json", "experiment.yaml", "ensemble.yaml", "domain.npy", "training_images.npy")
    return digest_files([*models, *(run.path / name for name in names)])


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

    Items have the column path, as `from_os` makes it.

    Attributes:
        run: with all settings.
        digest: of the run's files.
        runtime: `ONNX` or `TENSORFLOW`.
        base: folder to which paths are relative.
        batch_size: images a batch.
        max_pixels: images with more pixels are refused.
    """

    run: Run
    digest: str
    runtime: str
    base: str
    batch_size: int
    max_pixels: int

    def start(self, threads: int) -> Function:
        check_run(self.run, self.runtime, self.digest)
        predict = self._with_onnx(threads) if self.runtime == ONNX else self._with_tensorflow()

        def rows(items: pa.Table) -> pa.Table:
            names = items["path"].to_pylist()
            table = predict([os.path.join(self.base, to_os(name)) for name in names])
            return table.set_column(0, "path", pa.array(names, pa.string()))

        return rows

    def _with_onnx(self, threads: int) -> Callable[[list[str]], pa.Table]:
        from tfdetect.light.detector import LightDetector
        from tfdetect.light.predictions import predict_files

        detector = LightDetector(self.run, threads)
        return lambda paths: predict_files(
            detector, paths, self.batch_size, False, max_pixels=self.max_pixels, threads=threads
        ).to_arrow()

    def _with_tensorflow(self) -> Callable[[list[str]], pa.Table]:
        from tfdetect.core.quiet import import_tensorflow

        import_tensorflow()
        from tfdetect.evaluation.predictions import Scorer, predict_files
        from tfdetect.models.saving import load_detector

        scorer = Scorer(self.run, load_detector(self.run))
        return lambda paths: predict_files(
            self.run, scorer, paths, self.batch_size, False, max_pixels=self.max_pixels
        ).to_arrow()

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
        from tfdetect.evaluation.predictions import Scorer
        from tfdetect.models.saving import load_detector

        scorer = Scorer(self.run, load_detector(self.run))
        return lambda rows: predict_rows(
            self.run, scorer, self.catalog, rows, self.batch_size, self.own_validation, False
        )

    def failed(self, item: pa.Table, schema: pa.Schema) -> pa.Table:
        return failed_row(schema, error=ENDED)


@dataclass(frozen=True)
class ReadFiles:
    """Reads files as `data.parallel.read_all` does.

    Items have the column item: a path or a list of values, as JSON.

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


def items_of(files: list) -> pa.Table:
    """Return the items of `ReadFiles`: of paths, or of tuples that begin with one."""
    return pa.table({"item": pa.array(map(json.dumps, files), pa.string())})


def files_of(items: pa.Table) -> list:
    """Return the files that `items_of` was given."""
    found = map(json.loads, items["item"].to_pylist())
    return [tuple(file) if isinstance(file, list) else file for file in found]
