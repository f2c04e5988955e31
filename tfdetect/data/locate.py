"""Find the folder of a dataset: by its name, --data-dir, the environment, the cache, a download."""

import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from tfdetect.core import addresses, console, manifest, storage
from tfdetect.core.caches import cache_dir
from tfdetect.core.class_order import RunClasses
from tfdetect.core.disk import disk_error
from tfdetect.core.errors import UserError, first_line
from tfdetect.core.load_spec import load_spec
from tfdetect.core.patterns import PathPattern
from tfdetect.core.spec import PREPARED, DatasetSpec
from tfdetect.core.text import from_os
from tfdetect.core.walk import Walk
from tfdetect.data import hubs

_BATCH = 500  # paths that are matched at a time
ENVIRONMENT = "TFDETECT_DATA"


def locate_dataset(
    dataset: str,
    data_dir: Path | None = None,
    authentic: str | None = None,
    run_classes: RunClasses | None = None,
) -> tuple[DatasetSpec, dict[str, Path]]:
    """Resolve `--dataset` and find its data.

    Args:
        dataset: a shipped dataset's name or a path.
        data_dir: folder in which datasets are looked for first.
        authentic: name of the authentic class of a folder, if the folder names do not tell.
        run_classes: given if the data are to evaluate a run; see `load_spec`.

    Returns:
        The spec, and the folder of the dataset, or of each part of a union, by its name.
    """
    spec, folders = load_spec(unpacked(dataset), authentic, run_classes, data_dir is not None)
    return spec, find_roots(spec, folders, data_dir)


def unpacked(dataset: str) -> str:
    """Return the dataset after parts of TensorFlow Datasets and Hugging Face are unpacked."""
    if not any(prefix in dataset for prefix in hubs.PREFIXES) or Path(dataset).exists():
        return dataset
    return "+".join(map(hubs.unpack, dataset.split("+")))


def find_roots(
    spec: DatasetSpec, folders: dict[str, Path], data_dir: Path | None, download: bool = True
) -> dict[str, Path]:
    """Return the folder of a dataset, or of each part of a union, by its name.

    Args:
        spec: the dataset.
        folders: those that are known.
        data_dir: folder in which the others are looked for first.
        download: whether what is not found may be downloaded.

    Raises:
        UserError: a dataset was not found.
    """
    if data_dir is not None and all(s.name in folders for s in spec.datasets):
        _check_inside(data_dir, [folders[s.name] for s in spec.datasets])
    return {s.name: folders.get(s.name) or locate(s, data_dir, download) for s in spec.datasets}


def _check_inside(data_dir: Path, folders: list[Path]) -> None:
    """Check that --data-dir does not contradict a dataset that was given by its path.

    Raises:
        UserError: no folder of the dataset is inside of it.
    """
    if not any(folder.resolve().is_relative_to(data_dir.resolve()) for folder in folders):
        raise UserError(
            f"--data-dir {addresses.shown(data_dir)} says where to look for a dataset that is "
            f"given by its name, but this one is in {' and '.join(map(addresses.shown, folders))}. "
            "Leave --data-dir out."
        )


def present_roots(spec: DatasetSpec, roots: dict[str, Path]) -> dict[str, Path]:
    """Return the folders of a dataset that still contain it; those at addresses are fetched.

    Args:
        spec: the dataset.
        roots: its folder, or those of its parts, by name; relative ones are looked for from the
            current directory, where a folder of that name may be of something else.
    """
    specs = {each.name: each for each in spec.datasets}
    return {
        name: root for name, root in roots.items()
        if _fetch(part := specs.get(name, spec), root) and _holds(part, root)
    }  # fmt: skip


def _fetch(spec: DatasetSpec, folder: Path) -> bool:
    """Fetch a dataset, if it is at an address; return whether there is anything."""
    if not storage.exists(folder / spec.manifest if spec.manifest else folder):
        return False
    if spec.manifest:
        manifest.fetch(folder, spec.manifest, spec.columns)
    else:
        storage.fetched(folder)
    return True


def common_data_dir(roots: Mapping[str, Path]) -> Path | None:
    """Return the folder in which `locate` finds every one of some datasets; None without one.

    Args:
        roots: the folders of the datasets, by name.
    """
    found = [
        [data_dir for data_dir in (root, *root.parents[:2]) if root in _places(data_dir, name)]
        for name, root in roots.items()
    ]
    return next((each for each in found[0] if all(each in one for one in found)), None)


def _places(data_dir: Path, name: str) -> tuple[Path, ...]:
    """Return where in a data directory a dataset may be, the first one first."""
    return data_dir / name / PREPARED, data_dir / name, data_dir


def locate(spec: DatasetSpec, data_dir: Path | None = None, download: bool = True) -> Path:
    """Return the folder that contains the dataset; it is downloaded if necessary and possible.

    Args:
        spec: the dataset.
        data_dir: folder that must contain the dataset; by default $TFDETECT_DATA and the cache
            are searched.
        download: whether it may be downloaded.

    Raises:
        UserError: The dataset was not found; the message says what to download and where to
            put it.
    """
    if data_dir is not None:
        for folder in _places(data_dir, spec.name):
            if _fetch(spec, folder) and folder.is_dir() and _holds(spec, folder):
                return folder
        raise UserError(
            f"--data-dir {data_dir} does not contain the dataset {spec.name!r}: "
            + ("no file there matches its layout" if data_dir.is_dir() else "no such folder")
            + f" ({_layout(spec)})."
        )
    cached = cache_dir() / "datasets" / spec.name
    folders = [cached, cached / PREPARED]
    if root := os.environ.get(ENVIRONMENT):
        folders = [Path(root) / spec.name, Path(root) / spec.name / PREPARED, Path(root), *folders]
    for folder in folders:
        if folder.is_dir() and _holds(spec, folder):
            return folder
    if spec.source.builtin:
        from tfdetect.data import demo

        return demo.build(cached)
    if spec.source.kaggle and download:
        return _download(spec)
    raise UserError(f"The dataset {spec.name!r} was not found. {_what_to_do(spec)}")


def _holds(spec: DatasetSpec, folder: Path) -> bool:
    """Return whether a file below `folder` has the layout of the spec."""
    if table := spec.manifest or spec.shards:
        return (folder / table).is_file()
    pattern = PathPattern(spec.pattern or "")
    paths = Walk(folder).paths()
    while batch := list(islice(paths, _BATCH)):
        if any(pattern.match([from_os(path) for path in batch])):
            return True
    return False


def _download(spec: DatasetSpec) -> Path:
    console.log(f"Downloading {spec.name} from Kaggle ({spec.source.kaggle}) ...")
    try:
        import kagglehub

        folder = Path(kagglehub.dataset_download(spec.source.kaggle))
    except Exception as error:  # kagglehub raises what its HTTP library raises
        if disk_error(error):
            raise
        reason = first_line(error)[:200]
        raise UserError(
            f"Downloading {spec.name!r} failed: {reason}\n{_what_to_do(spec)}"
        ) from error
    if not _holds(spec, folder):
        raise UserError(
            f"The download of {spec.name!r} from Kaggle ({folder}) does not have the "
            f"{_layout(spec)}. {_what_to_do(spec)}"
        )
    return folder


def _layout(spec: DatasetSpec) -> str:
    if spec.shards:
        return f"prepared dataset with {spec.shards}"
    if spec.manifest:
        return f"manifest {spec.manifest}"
    classes = " and ".join("|".join(c.folders) for c in spec.classes)
    return f"layout {spec.pattern}, class folders {classes}"


def _what_to_do(spec: DatasetSpec) -> str:
    size = f" ({spec.source.size})" if spec.source.size else ""
    get = (
        f"Download {spec.source.homepage}{size} and unpack it"
        if spec.source.homepage
        else f"tfdetect knows no address to download it from. Put your copy{size}"
    )
    return (
        f"{get} into {cache_dir() / 'datasets' / spec.name}, or "
        f"into another folder that you name with --data-dir FOLDER or {ENVIRONMENT}=FOLDER."
    )
