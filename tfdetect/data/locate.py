"""Finds a dataset's folder: --data-dir, the environment, the cache, then a download."""

import os
import re
import sys
from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.spec import PREPARED, DatasetSpec

ENVIRONMENT = "TFDETECT_DATA"


def cache_dir() -> Path:
    """The folder for caches: $TFDETECT_CACHE, else ~/.cache/tfdetect."""
    return Path(os.environ.get("TFDETECT_CACHE", "~/.cache/tfdetect")).expanduser()


def locate(spec: DatasetSpec, data_dir: Path | None = None) -> Path:
    """Returns the folder that holds the dataset, downloading it if need be.

    Raises:
        UserError: it is nowhere and cannot be had; the message says what to
            fetch and where to put it.
    """
    if data_dir is not None:
        for folder in (data_dir / spec.name / PREPARED, data_dir / spec.name, data_dir):
            if folder.is_dir() and _holds(spec, folder):
                return folder
        raise UserError(
            f"--data-dir {data_dir} does not hold the dataset {spec.name!r}: "
            + ("no file there matches its layout" if data_dir.is_dir() else "no such folder")
            + f" ({_layout(spec)})."
        )
    places = [cache_dir() / "datasets" / spec.name, cache_dir() / "datasets" / spec.name / PREPARED]
    if root := os.environ.get(ENVIRONMENT):
        places = [Path(root) / spec.name, Path(root) / spec.name / PREPARED, Path(root), *places]
    for folder in places:
        if folder.is_dir() and _holds(spec, folder):
            return folder
    if spec.source.builtin:
        from tfdetect.data import demo

        return demo.build(cache_dir() / "datasets" / spec.name)
    if spec.source.kaggle:
        return _download(spec)
    raise UserError(f"The dataset {spec.name!r} was not found. {_way_out(spec)}")


def _holds(spec: DatasetSpec, folder: Path) -> bool:
    """Whether some file below `folder` has the spec's layout; stops at the first."""
    if table := spec.manifest or spec.shards:
        return (folder / table).is_file()
    pattern = re.compile(spec.pattern)
    for parent, _, files in os.walk(folder):
        relative = Path(parent).relative_to(folder).as_posix()
        if any(pattern.fullmatch(f"{relative}/{name}") for name in files[:20]):
            return True
    return False


def _download(spec: DatasetSpec) -> Path:
    print(f"Downloading {spec.name} from Kaggle ({spec.source.kaggle}) ...", file=sys.stderr)
    try:
        import kagglehub

        folder = Path(kagglehub.dataset_download(spec.source.kaggle))
    except KeyboardInterrupt:
        raise
    except Exception as error:  # kagglehub raises what its HTTP library raises
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"Downloading {spec.name!r} failed: {reason}\n{_way_out(spec)}") from error
    if not _holds(spec, folder):
        raise UserError(
            f"What Kaggle sent for {spec.name!r} ({folder}) has another layout than "
            f"{_layout(spec)}. {_way_out(spec)}"
        )
    return folder


def _layout(spec: DatasetSpec) -> str:
    if spec.shards:
        return f"prepared dataset with {spec.shards}"
    if spec.manifest:
        return f"manifest {spec.manifest}"
    classes = " and ".join("|".join(c.folders) for c in spec.classes)
    return f"layout {spec.pattern}, class folders {classes}"


def _way_out(spec: DatasetSpec) -> str:
    what = spec.source.homepage or "the dataset"
    size = f" ({spec.source.size})" if spec.source.size else ""
    return (
        f"Fetch {what}{size} and unpack it into {cache_dir() / 'datasets' / spec.name}, or "
        f"anywhere else and say where with --data-dir FOLDER or {ENVIRONMENT}=FOLDER."
    )
