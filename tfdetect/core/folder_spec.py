"""Describes datasets that come without a spec: folders of images, and manifests."""

import re
import unicodedata
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tfdetect.core.class_order import RunClasses, order_classes
from tfdetect.core.errors import UserError
from tfdetect.core.folder_names import (
    DERIVED_FOLDERS,
    MASK_FOLDERS,
    SPLIT_FOLDERS,
    contains,
    generator_of,
)
from tfdetect.core.folder_tree import (
    ClassFolder,
    FolderTree,
    find_class_folders,
    generators_below,
    holds_images,
)
from tfdetect.core.image_names import hint, suffix_of
from tfdetect.core.manifest import read_manifest
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import from_os, shell_command
from tfdetect.core.walk import Walk

METADATA = "metadata"  # stem of tables of images in folders of Hugging Face
_SHOWN = 8  # names of folders of a level, in the description of a layout


def spec_for_folder(
    root: Path, authentic: str | None, run_classes: RunClasses | None
) -> DatasetSpec:
    """Describe a folder with one folder per class, with or without split folders above them.

    The class folders may be deeper, see `find_class_folders`.

    Args:
        root: the folder.
        authentic: name of the authentic class, if the folder names do not tell.
        run_classes: given if the data are to evaluate a run; then one class alone, a test split
            alone, or with a label a folder without class folders is enough. A folder that
            training accepts is described as for training, so that the splits are the same.

    Raises:
        UserError: There are no class folders, the classes do not suffice, or it is not clear
            which class is authentic.
    """
    if run_classes is not None and run_classes.label is not None:
        return _spec_for_labeled_folder(root, authentic, run_classes)

    def is_run_class(name: str) -> bool:
        return run_classes is not None and run_classes.number_of(name) is not None

    authentic = None if authentic is None else from_os(authentic)
    tree = find_class_folders(root, authentic, is_run_class)
    if not tree.classes:
        raise UserError(_no_class_folders(root, tree, run_classes))
    splits = tree.splits
    if run_classes is None and splits and "train" not in splits.values():
        raise UserError(
            f"{root} has {', '.join(splits)} but no train folder. Name one 'train', or "
            "put the class folders directly into the folder."
        )
    classes = order_classes(tree.class_names, authentic, root, run_classes, _empty_folders(tree))
    generators = _generators(tree.classes)
    used = {*tree.class_names, *(name for c in tree.classes for name in c.above)}
    return DatasetSpec(
        name=folder_name(root),
        title=f"Folder {from_os(root.resolve().name)}, read as {_layout(tree.classes)}",
        pattern=_pattern(tree.classes),
        classes=classes.specs,
        authentic_by=classes.authentic_by,
        splits=splits,
        generators=generators,
        leave_out=tuple(
            phrase for phrase in (*MASK_FOLDERS, *DERIVED_FOLDERS)
            if not any(contains(name, [phrase]) for name in used)
        ),
        default_split="train" if len(tree.class_names) > 1 else "test",
        validation_fraction=0.15,
    )  # fmt: skip


def _pattern(classes: list[ClassFolder]) -> str:
    """Return the pattern of paths in class folders."""
    before = [c.above[: c.split_at] if c.split else () for c in classes]
    after = [c.above[c.split_at :] if c.split else c.above for c in classes]
    named = next((part for part in (before, after) if _names_generators(part)), None)
    splits = sorted({c.split for c in classes if c.split is not None})
    split = f"(?P<split>{_any_of(splits)})/" if splits else ""
    if split and any(c.split is None for c in classes):
        split = f"(?:{split})?"
    below = generators_below(classes) if named is None else []
    return (
        _folders(before, named is before)
        + split
        + _folders(after, named is after)
        + f"(?P<class>{_any_of(sorted({c.name for c in classes}))})/"
        + (f"(?:(?P<generator>{_any_of(below)})/)?" if below else "")
        + ".+"
    )


def _layout(classes: list[ClassFolder]) -> str:
    """Return the layout of class folders for people, such as Dataset/{test,train}/{fake,real}."""

    def one_of(names: list[str]) -> str:
        shown = names if len(names) <= _SHOWN else [*names[:_SHOWN], "..."]
        return f"{{{','.join(shown)}}}" if len(shown) > 1 else shown[0]

    depth = max(len(c.above) for c in classes)
    levels = [sorted({c.above[i] for c in classes if len(c.above) > i}) for i in range(depth)]
    parts = [one_of(names) for names in levels]
    if splits := sorted({c.split for c in classes if c.split is not None}):
        place = next(c.split_at for c in classes if c.split is not None)
        parts.insert(place, one_of(splits))
    return "/".join([*parts, one_of(sorted({c.name for c in classes}))])


def _folders(parts: list[tuple[str, ...]], is_generator: bool) -> str:
    """Return the pattern of the folders above split or class, which may have several depths."""
    depths = sorted({len(part) for part in parts})
    if depths == [0]:
        return ""
    if len(set(parts)) == 1:
        text = "".join(f"{re.escape(name)}/" for name in parts[0])
    else:
        text = f"(?:[^/]+/){{{depths[0]},{depths[-1]}}}?"
    return f"(?P<generator>{text})" if is_generator else text


def _names_generators(parts: list[tuple[str, ...]]) -> bool:
    return any(generator_of(name) for part in set(parts) for name in part)


def _any_of(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in names)


def _generators(classes: list[ClassFolder]) -> dict[str, str]:
    """Return the names of generators by the names of the folders that mean them."""
    above = {name for c in classes for name in c.above}
    names = above if any(map(generator_of, above)) else {*generators_below(classes)}
    found = {name.lower(): generator_of(name) for name in names}
    return {key: found[key] or "" for key in sorted(found, key=len, reverse=True) if found[key]}


def _empty_folders(tree: FolderTree) -> str:
    if not tree.empty:
        return ""
    return f" No images are in {', '.join(sorted(set(tree.empty)))}."


def _no_class_folders(root: Path, tree: FolderTree, run_classes: RunClasses | None) -> str:
    if run_classes is not None and holds_images(str(root)):
        return (
            f"{root} has images but no class folders, so it is not known which of them are fake. "
            f"For verdicts without metrics: {shell_command('predict', 'RUN', root)}. If all of "
            "them are authentic, or all are fake, say so: --label authentic or --label fake."
        )
    return (
        f"{root} has no class folders. Put the images into one folder per class, for example "
        "real/ and fake/, with or without train/, validation/ and test/ above them."
        + _empty_folders(tree)
        + hint(Counter(map(suffix_of, Walk(root).paths())))
    )


def _spec_for_labeled_folder(
    root: Path, authentic: str | None, run_classes: RunClasses
) -> DatasetSpec:
    """Describe a folder in which all images, at any depth, are of one class."""
    if authentic is not None:
        raise UserError("Give either --label, for all images of a folder, or --authentic.")
    label = run_classes.index_of(run_classes.label or "")
    names: list[str] = []
    with suppress(UserError):  # of a folder whose layout tells nothing
        first, *others = spec_for_folder(root, None, RunClasses(run_classes.class_names)).classes
        if first.folders and any(each.folders for each in others):
            names = [name for each in (first, *others) for name in each.folders]
    if names:
        raise UserError(
            f"{root} has folders of several classes ({', '.join(names)}), which --label "
            f"{run_classes.label} contradicts. Leave --label out, or give the folder of one class."
        )
    return DatasetSpec(
        name=folder_name(root),
        title=f"Folder {from_os(root.resolve().name)}, all {run_classes.class_names[label]}",
        pattern="(?P<class>).+",
        classes=run_classes.classes({label: ("",)}),
        authentic_by="flag",
        leave_out=(*MASK_FOLDERS, *DERIVED_FOLDERS),
        default_split="test",
    )


def spec_for_manifest(
    path: Path, authentic: str | None, run_classes: RunClasses | None
) -> DatasetSpec:
    """Describe the dataset that a table in CSV, JSON Lines or Parquet lists.

    Args:
        path: the table, with the columns path (or file_name) and label.
        authentic: the label of authentic images, if the labels do not tell.
        run_classes: given if the data are to evaluate a run; then one label is enough.

    Raises:
        UserError: There is no such file, a column is missing, or it is not clear which label is
            authentic.
    """
    table = read_manifest(path, {})
    labels = sorted({str(value) for value in table["label"].to_pylist()})
    if not labels:
        raise UserError(f"The manifest {path} lists no files.")
    classes = order_classes(labels, authentic, path, run_classes)
    return DatasetSpec(
        name=folder_name(
            path.parent if path.stem in ("manifest", METADATA) else path.with_suffix("")
        ),
        title=f"Manifest {path.name}",
        manifest=path.name,
        classes=classes.specs,
        authentic_by=classes.authentic_by,
        splits=SPLIT_FOLDERS,
        default_split="train" if len(labels) > 1 else "test",
        validation_fraction=0.15,
    )


def folder_name(path: Path) -> str:
    """Return the name of a dataset that a folder holds: lower case, underscores, no accents."""
    name = unicodedata.normalize("NFKD", path.resolve().name.lower())
    name = "".join(letter for letter in name if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9]+", "_", name).strip("_")[:100] or "folder"
