"""`Run`: the folder one training leaves behind. Listing or reading one needs no TensorFlow.

Layout (schema 1):

    run.json             schema, status, classes, image size, dataset fingerprint, versions, ...
    experiment.yaml      the resolved experiment; of an ensemble, ensemble.yaml: its members
    dataset.yaml         the dataset spec
    history.csv          one row an epoch
    model.keras          the best model (Keras)
    saved_model/         the same model for TensorFlow alone
    predictions/         <split>.parquet, one row an image
    metrics.json         metrics with intervals, by split
    figures/ report.html model_card.md
    skipped.csv          files that could not be read, with the reason
    logs/                training log and TensorBoard events
    state/               what --resume needs; gone when training is complete

A run is written as `<name>.partial` and renamed when whole.
"""

import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import tfdetect
from tfdetect.documents import read_yaml, validate
from tfdetect.errors import UserError
from tfdetect.experiment import Experiment

SCHEMA = 1
PARTIAL = ".partial"
_REQUIRED = ("schema", "status", "classes", "image_size", "resize", "dataset")


@dataclass(frozen=True)
class View:
    """What a detector sees of an image.

    Attributes:
        size: height and width in pixels.
        policy: how the image is brought there; see `geometry.resize`.
        crops: number of windows; see `geometry.windows`.
    """

    size: tuple[int, int]
    policy: str
    crops: int = 1


@dataclass(frozen=True)
class Run:
    """A run's folder and its `run.json`."""

    path: Path
    info: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(PARTIAL)

    @property
    def classes(self) -> list[str]:
        """Class names in label order; index 0 is authentic."""
        return self.info["classes"]

    @property
    def threshold(self) -> float:
        """P(fake) from which the verdict is fake."""
        return self.info.get("threshold", 0.5)

    @property
    def calibration(self) -> dict[str, Any] | None:
        """How P(fake) is calibrated; see `evaluation.calibration.apply`."""
        return self.info.get("calibration")

    @property
    def unsure(self) -> tuple[float, float]:
        """P(fake) from which, and below which, a verdict is unsure; equal where none is."""
        band = self.info.get("unsure") or {"low": self.threshold, "high": self.threshold}
        return band["low"], band["high"]

    @property
    def roots(self) -> dict[str, Path]:
        """Where each dataset lay when the run was trained."""
        return {name: Path(root) for name, root in self.info["dataset"]["roots"].items()}

    @property
    def views(self) -> list[View]:
        """What the detector sees of an image; an ensemble may have several views."""
        found = self.info.get("views") or [
            {"size": self.info["image_size"], "policy": self.info["resize"],
             "crops": self.info.get("crops", 1)}
        ]  # fmt: skip
        return [View(tuple(v["size"]), v["policy"], v["crops"]) for v in found]

    @property
    def is_ensemble(self) -> bool:
        return (self.path / "ensemble.yaml").is_file()

    @property
    def draws_masks(self) -> bool:
        """Whether the detector says which pixels were altered."""
        if "masks" in self.info:
            return self.info["masks"]
        return self.experiment().model.mask_head is not None

    @property
    def document(self) -> str:
        """What the run was made by, as YAML: its experiment, or its members."""
        name = "ensemble" if self.is_ensemble else "experiment"
        return (self.path / f"{name}.yaml").read_text(encoding="utf-8")

    @property
    def members(self) -> list[str]:
        """Names of an ensemble's members; of another run none."""
        if not self.is_ensemble:
            return []
        return [member["name"] for member in read_yaml(self.path / "ensemble.yaml")["members"]]

    def reread(self) -> "Run":
        """The run as its run.json has it now."""
        return Run(self.path, _read_info(self.path))

    def saved_with(self, **values: Any) -> "Run":
        """The same run after `values` were written into its run.json; those of None go."""
        info = json.loads((self.path / "run.json").read_text())
        for old in (info, self.info):
            for name in values:
                old.pop(name, None)
        values = {name: value for name, value in values.items() if value is not None}
        write_text(self.path / "run.json", json.dumps(info | values, indent=2))
        return replace(self, info={**self.info, **values})

    def with_crops(self, crops: int | None) -> "Run":
        """The same run, to predict with another number of windows an image; None changes nothing.

        Raises:
            UserError: the run does not cut windows.
        """
        if crops is None:
            return self
        if len(self.views) > 1:
            raise UserError(f"The members of {self.name} cut their own windows; leave out --crops.")
        if crops > 1 and self.draws_masks:
            raise UserError(f"{self.name} draws masks and reads whole images by tiles; --crops 1.")
        if crops > 1 and not self.info["resize"].startswith("window"):
            raise UserError(
                f"--crops works for runs that cut windows (data.resize: window_tile or "
                f"window_pad); {self.name} was trained with {self.info['resize']}."
            )
        return replace(self, info={**self.info, "crops": crops})

    def with_flips(self, flips: bool) -> "Run":
        """The same run, to predict on each image and its mirror image; their mean counts.

        Raises:
            UserError: the run draws masks.
        """
        if flips and self.draws_masks:
            raise UserError(f"{self.name} draws masks; leave out --flips.")
        return replace(self, info={**self.info, "flips": flips}) if flips else self

    @property
    def model_path(self) -> Path:
        return self.path / "model.keras"

    def experiment(self) -> Experiment:
        """What was trained.

        Raises:
            UserError: the run is an ensemble, which has none of its own.
        """
        path = self.path / "experiment.yaml"
        return validate(Experiment, read_yaml(path), str(path), path)

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json, {} before the first evaluation."""
        path = self.path / "metrics.json"
        return json.loads(path.read_text()) if path.is_file() else {}


def open_run(path: str | Path) -> Run:
    """Opens a finished run.

    Raises:
        UserError: no such folder, not a run, corrupt, of a newer schema, or
            unfinished.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        partial = path.with_name(path.name + PARTIAL)
        if partial.is_dir():
            raise UserError(
                f"Run {path} is not finished. Go on with: python -m tfdetect.train --resume {path}"
            )
        raise UserError(f"There is no run folder {str(path)!r}.")
    run = Run(path, _read_info(path))
    for needed in ("experiment.yaml", "model.keras"):
        if needed == "experiment.yaml" and run.is_ensemble:
            continue
        if not (path / needed).is_file():
            if path.name.endswith(PARTIAL):
                raise UserError(
                    f"Run {path} is not finished. Go on with: "
                    f"python -m tfdetect.train --resume {path}"
                )
            raise UserError(f"Run {path} is corrupt: {needed} is missing.")
    if run.info.get("pretraining"):
        raise UserError(
            f"Run {path} learnt what photographs show, not which are fake. It is for other "
            f"trainings: --set model.weights={path}"
        )
    return run


def _read_info(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    if not file.is_file():
        raise UserError(f"{path} is not a run: it has no run.json.")
    try:
        info = json.loads(file.read_text())
        missing = [key for key in _REQUIRED if key not in info]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"Run {path} is corrupt: run.json cannot be read ({error}).") from error
    if missing:
        raise UserError(f"Run {path} is corrupt: run.json lacks {', '.join(missing)}.")
    if info["schema"] > SCHEMA:
        raise UserError(
            f"Run {path} has schema {info['schema']}, newer than {SCHEMA}, which this tfdetect "
            f"({tfdetect.__version__}) reads. Install a newer tfdetect."
        )
    return info


class RunWriter:
    """A run being written: `<name>.partial`, locked while this process lives."""

    def __init__(self, path: Path):
        self.final = path
        self.path = path.with_name(path.name + PARTIAL)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def acquire(self) -> None:
        """Takes the lock, and makes the folder.

        Raises:
            UserError: another process is writing this run, or the folder
                cannot be written.
        """
        check_writable(self.final.parent)
        try:
            self._lock.acquire(timeout=0)
            self.path.mkdir(exist_ok=True)
            (self.path / "logs").mkdir(exist_ok=True)
        except Timeout:
            raise UserError(f"Another process is writing the run {self.final}.") from None

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the run atomically."""
        write_text(self.path / name, text)

    def update_info(self, **values: Any) -> dict[str, Any]:
        """Merges `values` into run.json and returns the whole."""
        file = self.path / "run.json"
        info = json.loads(file.read_text()) if file.is_file() else {}
        info.update(values)
        self.write_text("run.json", json.dumps(info, indent=2))
        return info

    def adopt(self) -> None:
        """Takes an interrupted run under its final name up again."""
        shutil.rmtree(self.path)  # the empty one that acquire made
        self.final.rename(self.path)

    def finish(self) -> Run:
        """Renames the run to its final name and gives the lock back."""
        self.path.rename(self.final)
        self.release()
        return Run(self.final, _read_info(self.final))

    def abandon(self) -> None:
        """Gives the lock back; a run without any state to resume from is removed."""
        if self.path.is_dir() and not (self.path / "state").is_dir():
            shutil.rmtree(self.path)
        self.release()

    def release(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def new_run_path(output: Path, name: str) -> Path:
    """A path below `output` that no run has yet: `name`, `name-2`, `name-3` ..."""
    number = 1
    while True:
        path = output / (name if number == 1 else f"{name}-{number}")
        if not path.exists() and not path.with_name(path.name + PARTIAL).exists():
            return path
        number += 1


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` so that a reader sees the old or the new file, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def provenance() -> dict[str, Any]:
    """Versions, git revision, command and time, for run.json."""
    packages = ("tensorflow", "keras", "keras-hub", "numpy", "pillow")
    versions = {"tfdetect": tfdetect.__version__, "python": sys.version.split()[0]}
    versions |= {p: metadata.version(p) for p in packages}
    revision = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    ).stdout.strip() if shutil.which("git") else ""  # fmt: skip
    return {
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "git_revision": revision or None,
    }


def find_unfinished(output: Path, experiment: Experiment) -> Path:
    """The latest unfinished or interrupted run below `output` of just this experiment.

    Raises:
        UserError: there is none.
    """
    found = [
        folder for folder in output.glob("*/")
        if (folder / "state").is_dir() or folder.name.endswith(PARTIAL)
    ]  # fmt: skip
    text = experiment.to_yaml()
    same = [
        folder for folder in found
        if (folder / "experiment.yaml").is_file()
        and (folder / "experiment.yaml").read_text() == text
    ]  # fmt: skip
    if not same:
        others = ", ".join(str(f) for f in found) or "none"
        raise UserError(
            f"{output} has no unfinished run of this experiment (unfinished there: {others}). "
            "Name one with --resume RUN, or leave --resume out."
        )
    latest = max(same, key=lambda folder: folder.stat().st_mtime)
    return latest.with_name(latest.name.removesuffix(PARTIAL))


def check_writable(output: Path) -> None:
    """Fails early, before data are read, where a run could not be written.

    Raises:
        UserError: the folder for runs cannot be made or written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(
            f"Cannot write to {output}: {error.strerror}. Choose another folder with --output."
        ) from error
