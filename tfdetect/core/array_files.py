"""Write NumPy files, and read those that may be damaged or contain something else."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tfdetect.core.disk import replacing
from tfdetect.core.errors import UserError
from tfdetect.core.files import checksum
from tfdetect.core.packages import full_command

_SIGNATURES = (b"\x93NUMPY", b"PK\x03\x04")  # of .npy and .npz files


def load_array(path: Path, mapped: bool = False, dtype: Any = None) -> Any:
    """Return the array of a .npy file, or the arrays of a .npz file, which hold no Python objects.

    Args:
        path: the file.
        mapped: whether the array is memory-mapped instead of read.
        dtype: required dtype of a one-dimensional array; None for any array.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, or holds something else; the message says how.
    """
    with open(path, "rb") as file:
        start = file.read(6)
    if not start:
        raise ValueError("it is empty")
    if not start.startswith(_SIGNATURES):  # NumPy takes it for a pickle, and says how to load that
        raise ValueError("it holds no NumPy array")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):  # NumPy would leave it open
        raise ValueError("it is cut off")
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        what = "Python objects" if "pickle" in str(error) else f"no whole array ({error})"
        raise ValueError(f"it holds {what}") from error
    if dtype is not None and (array.dtype != dtype or array.ndim != 1):
        raise ValueError(f"it holds no list of {dtype} but {array.dtype} {list(array.shape)}")
    return array


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a .npy file, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def damaged_part(run: Path, name: str, error: OSError | ValueError) -> UserError:
    """Return the error about a file of a run that `calibrate` can make again.

    Args:
        run: the folder of the run.
        name: the name of the file.
        error: the reason why it cannot be read.
    """
    is_missing = isinstance(error, FileNotFoundError)
    what = "is missing" if is_missing else f"is damaged: {error}"
    if isinstance(error, OSError) and not is_missing:
        what = f"cannot be read: {error.strerror or error}"
    return UserError(
        f"Run {run} is corrupt: {name} {what}. Copy the run again, or make this file again from "
        f"the images that the run was trained on, not from others: "
        f"{full_command('calibrate', run)}"
    )


def calibrated_parts(run: Path) -> dict[str, str]:
    """Return the checksums of the files of a run that `calibrate` makes again, by name."""
    names = ("domain.npy", "training_images.npy")
    return {name: checksum(run / name) for name in names if (run / name).is_file()}
