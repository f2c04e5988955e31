"""Describes datasets that come without a spec: folders of images, and manifests."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core.errors import UserError, nearest, unknown
from tfdetect.core.spec import COLUMNS, ClassSpec, DatasetSpec

if TYPE_CHECKING:
    import pyarrow as pa

# Class names that mean "authentic", compared in lower case. For other names the user says which
# class is authentic (--authentic); it is never guessed from the order of the names.
AUTHENTIC_NAMES = (
    "real", "reals", "0_real", "authentic", "au", "nature", "natural", "original",
    "originals", "genuine", "pristine", "photo", "photos", "human", "0",
)  # fmt: skip
# Class names that mean "fake", which matter only where a class stands alone.
FAKE_NAMES = (
    "fake", "fakes", "1_fake", "ai", "generated", "synthetic", "altered", "edited", "forged",
    "forgery", "inpainted", "manipulated", "tampered", "tp", "deepfake", "1",
)  # fmt: skip
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
MANIFEST_SUFFIXES = (".csv", ".parquet")
# Images by their names, for messages about a folder without class folders.
_IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic",
    ".heif",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """What is known if data are to evaluate a run, not to train one.

    Attributes:
        class_names: the run's classes in label order; class 0 is the authentic one.
        label: class of all images of a folder: "authentic", "fake" or a class name; None if
            the folders or the manifest tell.
    """

    class_names: tuple[str, ...] = ("authentic", "fake")
    label: str | None = None

    def index_of(self, label: str) -> int:
        """Return the class number that a label means.

        Raises:
            UserError: The label is not known, or "fake" does not say which of several classes.
        """
        names = self.class_names
        if label in names:
            return names.index(label)
        if label == "authentic":
            return 0
        if label == "fake" and len(names) == 2:
            return 1
        if label == "fake":
            raise UserError(
                f"The run distinguishes several kinds of fake. Say which kind these images are: "
                f"--label {' or --label '.join(names[1:])}."
            )
        raise unknown("class for --label", label, dict.fromkeys(["authentic", "fake", *names]))


def spec_for_folder(
    root: Path, authentic: str | None = None, evaluation: Evaluation | None = None
) -> DatasetSpec:
    """Describe a folder with one folder per class, with or without split folders above them.

    Args:
        root: the folder.
        authentic: name of the authentic class, if the folder names do not tell.
        evaluation: given if the data are to evaluate a run; then one class alone, a test split
            alone, or with a label a folder without class folders is enough. A folder that
            training accepts is described as for training, so that the splits are the same.

    Raises:
        UserError: There are no class folders, the classes do not suffice, or it is not clear
            which class is authentic.
    """
    if evaluation is not None and evaluation.label is not None:
        return _spec_for_labeled_folder(root, authentic, evaluation)
    split_folders, classes = _list_folders(root)
    if not classes:
        raise UserError(_no_class_folders(root, evaluation))
    if evaluation is None and split_folders and "train" not in split_folders.values():
        raise UserError(
            f"{root} has {', '.join(split_folders)} but no train folder. Name one 'train', or "
            "put the class folders directly into the folder."
        )
    if len(classes) > 1:
        ordered = _authentic_first(classes, authentic, root)
        class_specs = tuple(ClassSpec(name=c, folders=(c,)) for c in ordered)
    elif evaluation is None:
        raise UserError(
            f"{root} has only one class, {classes[0]!r}. A detector needs authentic images and "
            "at least one kind of fake, each in its own folder."
        )
    else:
        class_specs = _one_class(classes[0], authentic, evaluation, root)
    split = f"(?P<split>{'|'.join(map(re.escape, split_folders))})/" if split_folders else ""
    return DatasetSpec(
        name=folder_name(root),
        title=f"Folder {root.resolve().name}",
        pattern=f"{split}(?P<class>{'|'.join(map(re.escape, classes))})/.+",
        classes=class_specs,
        splits=split_folders,
        default_split="train" if len(classes) > 1 else "test",
        validation_fraction=0.15,
    )


def _list_folders(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return the split folders with the splits that they mean, and the names of class folders."""
    try:
        children = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        split_folders = {
            p.name: SPLIT_FOLDERS[p.name.lower()]
            for p in children
            if p.name.lower() in SPLIT_FOLDERS
        }
        tops = [p for p in children if p.name in split_folders] or [root]
        classes = sorted({
            c.name for top in tops for c in top.iterdir()
            if c.is_dir() and not c.name.startswith(".")
        })  # fmt: skip
    except PermissionError as error:
        raise UserError(f"Cannot read {root}: {error.strerror}.") from error
    return split_folders, classes


def _no_class_folders(root: Path, evaluation: Evaluation | None) -> str:
    if evaluation is not None and _holds_images(root):
        return (
            f"{root} has images but no class folders, so it is not known which of them are fake. "
            f"For verdicts without metrics: python -m tfdetect.predict RUN {root}. If all of "
            "them are authentic, or all are fake, say so: --label authentic or --label fake."
        )
    return (
        f"{root} has no class folders. Put the images into one folder per class, for example "
        "real/ and fake/, with or without train/, validation/ and test/ above them."
    )


def _holds_images(root: Path) -> bool:
    return any(
        name.lower().endswith(_IMAGE_SUFFIXES) for _, _, names in os.walk(root) for name in names
    )


def _spec_for_labeled_folder(
    root: Path, authentic: str | None, evaluation: Evaluation
) -> DatasetSpec:
    """Describe a folder in which all images, at any depth, are of one class."""
    if authentic is not None:
        raise UserError("Give either --label, for all images of a folder, or --authentic.")
    label = evaluation.index_of(evaluation.label or "")
    return DatasetSpec(
        name=folder_name(root),
        title=f"Folder {root.resolve().name}, all {evaluation.class_names[label]}",
        pattern="(?P<class>).+",
        classes=_classes_of(evaluation, label, ""),
        default_split="test",
    )


def _one_class(
    name: str, authentic: str | None, evaluation: Evaluation, where: Path
) -> tuple[ClassSpec, ...]:
    """Return the run's classes, of which one stands for a folder or label in the data.

    Raises:
        UserError: It is not clear which class that is.
    """
    fakes = [n.lower() for n in evaluation.class_names[1:]]
    if authentic is not None and authentic != name:
        raise unknown("class for --authentic", authentic, [name])
    if authentic == name or name.lower() in (*AUTHENTIC_NAMES, evaluation.class_names[0].lower()):
        label = 0
    elif name.lower() in fakes:
        label = 1 + fakes.index(name.lower())
    elif name.lower() in FAKE_NAMES:
        label = evaluation.index_of("fake")
    else:
        raise UserError(
            f"{where} has only one class, {name!r}, and its name does not say whether these "
            "images are fake. Say so: --label authentic or --label fake."
        )
    return _classes_of(evaluation, label, name)


def _classes_of(evaluation: Evaluation, label: int, folder: str) -> tuple[ClassSpec, ...]:
    return tuple(
        ClassSpec(name=name, folders=(folder,) if number == label else ())
        for number, name in enumerate(evaluation.class_names)
    )


def spec_for_manifest(
    path: Path, authentic: str | None = None, evaluation: Evaluation | None = None
) -> DatasetSpec:
    """Describe the dataset that a CSV or Parquet table lists.

    Args:
        path: the table, with the columns path and label.
        authentic: the label of authentic images, if the labels do not tell.
        evaluation: given if the data are to evaluate a run; then one label is enough.

    Raises:
        UserError: There is no such file, a column is missing, or it is not clear which label is
            authentic.
    """
    table = read_manifest(path, {})
    labels = sorted({str(value) for value in table["label"].to_pylist()})
    if not labels:
        raise UserError(f"The manifest {path} lists no files.")
    if len(labels) > 1:
        ordered = _authentic_first(labels, authentic, path)
        classes = tuple(ClassSpec(name=c, folders=(c,)) for c in ordered)
    elif evaluation is None:
        raise UserError(
            f"{path} has only one label, {labels[0]!r}. A detector needs authentic images and "
            "at least one kind of fake."
        )
    else:
        classes = _one_class(labels[0], authentic, evaluation, path)
    return DatasetSpec(
        name=folder_name(path.parent if path.stem == "manifest" else path.with_suffix("")),
        title=f"Manifest {path.name}",
        manifest=path.name,
        classes=classes,
        splits=SPLIT_FOLDERS,
        default_split="train" if len(labels) > 1 else "test",
        validation_fraction=0.15,
    )


def read_manifest(path: Path, columns: dict[str, str]) -> "pa.Table":
    """Read a manifest.

    Args:
        path: CSV or Parquet table.
        columns: the table's own names of the columns in `COLUMNS`, where they differ.

    Returns:
        Those of `COLUMNS` that the manifest has, as strings, null where empty.

    Raises:
        UserError: The table cannot be read, or has no column path or label.
    """
    import pyarrow as pa
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pacsv.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"There is no manifest {path}.") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"The manifest {path} cannot be read: {error}") from error
    names = {column: columns.get(column, column) for column in COLUMNS}
    for column in COLUMNS:
        if names[column] not in table.column_names:
            if column in ("path", "label") or column in columns:
                raise UserError(
                    f"The manifest {path} has no column {names[column]!r}."
                    f"{nearest(names[column], table.column_names)} It has: "
                    f"{', '.join(table.column_names)}. A dataset spec can map them (columns)."
                )
            del names[column]
    return pa.table({c: _text(table[name]) for c, name in names.items()})


def _text(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Return a column as strings, null where empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _authentic_first(classes: list[str], authentic: str | None, where: Path) -> list[str]:
    """Return the classes in label order.

    Raises:
        UserError: It is not clear which class is authentic.
    """
    if authentic is None:
        found = [c for c in classes if c.lower() in AUTHENTIC_NAMES]
        if len(found) != 1:
            what = "No class looks authentic" if not found else "Several classes look authentic"
            raise UserError(
                f"{what} among {', '.join(classes)} in {where}. Say which one is: --authentic NAME."
            )
        authentic = found[0]
    elif authentic not in classes:
        raise unknown("class for --authentic", authentic, classes)
    return [authentic, *(c for c in classes if c != authentic)]


def folder_name(path: Path) -> str:
    """Return the name of a dataset that a folder holds: lower case, underscores."""
    return re.sub(r"[^a-z0-9]+", "_", path.resolve().name.lower()).strip("_")[:100] or "folder"
