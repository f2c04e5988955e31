"""`Run`: the folder that one training leaves behind. Reading one needs no TensorFlow."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tfdetect
from tfdetect.core.documents import read_yaml, validate
from tfdetect.core.errors import UserError
from tfdetect.core.experiment import Experiment
from tfdetect.core.files import write_text

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
    def predicts_masks(self) -> bool:
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
        return Run(self.path, read_info(self.path))

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
        if crops > 1 and self.predicts_masks:
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
        if flips and self.predicts_masks:
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
    run = Run(path, read_info(path))
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
            f"Run {path} learned what photographs show, not which are fake. It is for other "
            f"trainings: --set model.weights={path}"
        )
    return run


def read_info(path: Path) -> dict[str, Any]:
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


def new_run_path(output: Path, name: str) -> Path:
    """A path below `output` that no run has yet: `name`, `name-2`, `name-3` ..."""
    number = 1
    while True:
        path = output / (name if number == 1 else f"{name}-{number}")
        if not path.exists() and not path.with_name(path.name + PARTIAL).exists():
            return path
        number += 1


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
