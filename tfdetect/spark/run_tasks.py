"""Tasks that use a trained run on the machines of a cluster: predict files, predict and explain
the images of a dataset.
"""

import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tfdetect.core import addresses, storage
from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.text import to_os, user_path
from tfdetect.data.parallel import ENDED
from tfdetect.spark.executor import Function
from tfdetect.spark.items import failed_row
from tfdetect.spark.job import digest_files

if TYPE_CHECKING:
    from tfdetect.data.catalog import Catalog

ONNX, TENSORFLOW = "ONNX Runtime", "TensorFlow"
_EXPLAINED = pa.schema([("explained", pa.binary()), ("error", pa.string())])


def run_digest(run: Run, runtime: str) -> str:
    """Return a hex digest of the files of a run that determine its verdicts.

    Args:
        run: the run.
        runtime: `ONNX` or `TENSORFLOW`.
    """
    # An ONNX export that shares weights with the Keras model contains a digest of that file.
    model = run.model_path if runtime == TENSORFLOW else run.onnx_path
    names = ("run.json", "experiment.yaml", "ensemble.yaml", "domain.npy", "training_images.npy")
    files = [run.path / name for name in names]
    return digest_files(files if model is None else [model, *files])


def check_run(run: Run, runtime: str, expected: str) -> None:
    """Check that a machine has the same files of a run as the machine that began the job.

    Args:
        run: the run, by its path on this machine.
        runtime: `ONNX` or `TENSORFLOW`.
        expected: the `run_digest` on the machine that began the job.

    Raises:
        UserError: this machine has other files, or none.
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


@dataclass(frozen=True)
class PredictFiles:
    """Predicts image files, as `predict` does; its rows are those of the table of `predict`.

    Items have the column path: a path as `from_os` returns it, or an address.

    Attributes:
        run: the run, with its settings of verdicts and views.
        address: the address of the run, if it was given by one (`core.storage`); each machine
            fetches it from there.
        digest: the `run_digest` of the run.
        runtime: `ONNX` or `TENSORFLOW`.
        base: the folder that relative paths start from.
        batch_size: images per step.
        max_pixels: images with more pixels get an error.
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
        load = self._load_onnx if self.runtime == ONNX else self._load_tensorflow
        predict = load(run, threads)

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

    def _load_onnx(self, run: Run, threads: int) -> Callable[[list[str]], pa.Table]:
        """Return what predicts files by the ONNX export of a run."""
        from tfdetect.light.onnx_detector import LightDetector
        from tfdetect.light.onnx_predictions import predict_files

        detector = LightDetector(run, threads)
        return lambda paths: predict_files(
            detector, paths, batch_size=self.batch_size, progress=False,
            max_pixels=self.max_pixels, threads=threads,
        ).to_arrow()  # fmt: skip

    def _load_tensorflow(self, run: Run, threads: int) -> Callable[[list[str]], pa.Table]:
        """Return what predicts files by the Keras model of a run."""
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
    """Predicts images of a dataset, as `evaluate` does; see `evaluate_run.predict_rows`.

    Items are rows of the catalog.

    Attributes:
        run: the run, with its settings of verdicts and views.
        digest: its `run_digest`.
        catalog: the dataset, without its rows.
        batch_size: images per step.
        own_validation: whether the images are the run's own validation split; see
            `predict_source`.
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
class ExplainRows:
    """Explains images of a dataset, as `explain` does.

    Items are rows of the catalog with the column number. The rows that it returns have the columns
    explained, a pickled `ExplainedImage` or null where the image cannot be read, and error.

    Attributes:
        run: the run.
        digest: its `run_digest`.
        catalog: the dataset, without its rows.
        stages: stages of the backbone, whose features are averaged instead of those of its end; see
            `explain_set`.
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
