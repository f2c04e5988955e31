"""A run's ONNX export in ONNX Runtime: from images to class probabilities and masks."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tfdetect.core import console
from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.errors import UserError, first_line
from tfdetect.core.files import checksum
from tfdetect.core.packages import full_command, has_tensorflow
from tfdetect.core.process import allowed_cores
from tfdetect.core.quiet import import_onnxruntime
from tfdetect.core.run import SHARED_DIGESTS, SHARED_ONNX, Run
from tfdetect.core.run_info import RunInfo
from tfdetect.light.numpy_tiles import by_tiles, pool_tiles
from tfdetect.light.resample import resize, restore


class DamagedExport(UserError):
    """An ONNX export that is damaged, or not of the run that it is in."""


def light_detector(run: Run) -> "LightDetector | None":
    """Return the detector of a run's ONNX export, or None if TensorFlow has to do its work.

    The export has the run's windows and flips in its graph, so other settings may need TensorFlow.
    A damaged export is warned of.

    Raises:
        UserError: the export cannot do what is asked for, and TensorFlow is not installed.
    """
    if not has_tensorflow():
        return LightDetector(run)
    if run.onnx_path is None:
        return None
    try:
        return LightDetector(run)
    except DamagedExport as error:
        console.warn(f"TensorFlow predicts, with model.keras, because {error}")
        return None
    except (UserError, ImportError):
        return None


def _threads() -> int:
    """Return the number of threads for ONNX Runtime; 0 lets it choose.

    It counts the cores of the machine, also where the process may use fewer of them.
    """
    allowed = len(allowed_cores())
    return 0 if allowed == os.cpu_count() else allowed


def _export_command(run: Run) -> str:
    shared = run.onnx_path == run.path / SHARED_ONNX
    return full_command("export", run.path, format="onnx_shared" if shared else "onnx")


@dataclass(frozen=True)
class LightScores:
    """What a detector computes of images.

    Attributes:
        table: class probabilities before calibration, float32 [n, C].
        features: float32 [n, F]; none if the run knows no distance of features.
        mask: P(altered) of one image, float32 [H, W]; none of a detector without masks.
    """

    table: np.ndarray
    features: np.ndarray | None
    mask: np.ndarray | None = None


class LightDetector:
    """Class probabilities and masks of images, without TensorFlow.

    Args:
        run: with an ONNX export; in single precision, if it has both.
        threads: of ONNX Runtime; 0 for one per core that this process may use.

    Attributes:
        run: the run.
        path: of the ONNX file.
        shared_files: files beside it that have weights of the network.
        graph_views: views of the exported graph; one with one crop takes single windows.
        mirrors: whether the mean with mirrored images is taken outside of the graph.

    Raises:
        UserError: there is no such file, it or a file with its weights is damaged, or it cannot do
            what the run is set to.
    """

    def __init__(self, run: Run, threads: int = 0):
        ort = import_onnxruntime()
        self.run = run
        path = run.onnx_path
        if path is None:
            raise UserError(f"{run.name} has no ONNX export. Write it with: {_export_command(run)}")
        self.path = path
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or _threads()
        options.log_severity_level = 3
        # Threads that wait in a loop take the cores away from everything else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            exported = _exported_info(self._session)
            digests = _digests(self._session)
        except Exception as error:  # ONNX Runtime has its own kinds
            reason = first_line(error)[:200]
            raise DamagedExport(
                f"{path} cannot be read: {reason}. Write it again with: {_export_command(run)}"
            ) from error
        self.shared_files = [path.with_name(name) for name in digests]
        for file, digest in zip(self.shared_files, digests.values()):
            if not file.is_file() or checksum(file) != digest:
                raise DamagedExport(
                    f"{path} has weights in {file.name}, which is damaged or not the file that it "
                    f"was written with. Copy both again, or write it with: {_export_command(run)}"
                )
        self._inputs = [each.name for each in self._session.get_inputs()]
        wanted = ("probabilities_raw", "features", "mask")
        self._outputs = [e.name for e in self._session.get_outputs() if e.name in wanted]
        self.graph_views = exported.views
        self._check(exported)
        self.mirrors = run.info.flips and not exported.flips

    def _check(self, exported: RunInfo) -> None:
        """Check that the export is of this run, and can do what the run is set to."""
        run = self.run
        same = [v.model_copy(update={"crops": 1}) for v in run.views] == [
            v.model_copy(update={"crops": 1}) for v in exported.views
        ]
        lacks_features = run.info.domain is not None and "features" not in self._outputs
        other_masks = run.predicts_masks != ("mask" in self._outputs)
        if exported.class_names != run.class_names or not same or lacks_features or other_masks:
            raise DamagedExport(
                f"{self.path} is not of this detector. Write it again with: {_export_command(run)}"
            )
        crops = [(a.crops, b.crops) for a, b in zip(run.views, exported.views)]
        if any(wanted != has and has > 1 for wanted, has in crops):
            raise UserError(f"The ONNX export of {run.name} has {exported.views[0].crops} crops.")
        if exported.flips and not run.info.flips:
            raise UserError(f"The ONNX export of {run.name} averages over mirrored images.")

    def score(self, parts: Sequence[Sequence[np.ndarray]]) -> LightScores:
        """Return what the detector computes of images.

        Args:
            parts: of each image what `view_parts` returns.
        """
        views = [np.stack(arrays) for arrays in zip(*parts)]
        table, features = self._score(views)
        if self.mirrors:
            mirrored, _ = self._score([view[..., ::-1, :] for view in views])
            table = (table + mirrored) / 2
        return LightScores(table, features)

    def _score(self, views: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        count = len(views[0])
        feeds = {}
        for name, view, graph in zip(self._inputs, views, self.graph_views):
            one = graph.crops == 1  # the graph takes single windows
            feeds[name] = np.ascontiguousarray(view.reshape(-1, *view.shape[2:]) if one else view)
        found = self._run(feeds)
        means = [None if each is None else each.reshape(count, -1, each.shape[-1]).mean(axis=1)
                 for each in (found["probabilities_raw"], found.get("features"))]  # fmt: skip
        assert means[0] is not None
        return means[0], means[1]

    def score_pixels(
        self, image: np.ndarray, on_tiles: Callable[[int, int], None] | None = None
    ) -> LightScores:
        """Return what the detector computes of one image, with P(altered) of its pixels.

        Args:
            image: uint8 [H, W, 3], of any size.
            on_tiles: see `light.numpy_tiles.by_tiles`.
        """
        [view] = self.run.views
        features = []

        def predict(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            found = self._run({self._inputs[0]: tiles})
            features.append(found.get("features"))
            return found["probabilities_raw"], found["mask"][..., 0]

        if cuts_windows(view.policy):
            tables, mask = by_tiles(image, view.size, view.policy, predict, on_tiles)
            table = pool_tiles(tables, mask, view.tile_pooling)[None]
        else:
            table, masks = predict(resize(image, view.size, view.policy)[None])
            mask = restore(masks[0], image.shape[:2], view.policy)
        known = [each for each in features if each is not None]
        mean = np.concatenate(known).mean(axis=0, keepdims=True) if known else None
        return LightScores(table, mean, mask)

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds)))


def _exported_info(session: "object") -> RunInfo:
    text = session.get_modelmeta().custom_metadata_map.get("tfdetect")  # type: ignore[attr-defined]
    if text is None:
        raise ValueError("it was not exported by tfdetect")
    return RunInfo.model_validate(json.loads(text)["info"])


def _digests(session: "object") -> dict[str, str]:
    text = session.get_modelmeta().custom_metadata_map.get(SHARED_DIGESTS, "{}")  # type: ignore[attr-defined]
    digests = {str(name): str(digest) for name, digest in json.loads(text).items()}
    if any(os.path.basename(name) != name for name in digests):
        raise ValueError("it names files in other folders")
    return digests
