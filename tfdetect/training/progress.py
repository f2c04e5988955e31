"""How far the training of a run has come, finished or not. TensorFlow is not imported."""

import json
import zipfile
from pathlib import Path
from typing import NamedTuple

from tfdetect.core.array_files import load_array
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import read_run
from tfdetect.core.run import partial_path

STATE_FILE = Path("state", "last.npz")  # in the folder of a run; see `TrainState`


class Trained(NamedTuple):
    """What was trained: whole epochs, and seconds."""

    epochs: int
    seconds: float


def trained_so_far(path: Path) -> Trained:
    """Return what was trained of a run; nothing where there is none, or it cannot be read.

    Args:
        path: the path of the finished run; an unfinished one is found beside it.
    """
    for folder in (path, partial_path(path)):
        try:
            info = read_run(folder).info
            if info.epochs is not None:
                return Trained(info.epochs, float(info.training_seconds or 0))
            with load_array(folder / STATE_FILE) as saved:
                state = json.loads(str(saved["state"]))
            return Trained(len(state["history"]), float(state["seconds"]))
        except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile, UserError):
            continue
    return Trained(0, 0.0)
