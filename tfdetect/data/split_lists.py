"""Read the lists in which a dataset names the files of its splits."""

from pathlib import Path

import pyarrow as pa

from tfdetect.core.columns import with_columns
from tfdetect.core.parsing import MAX_JSON_BYTES, read_json, read_text
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.scan_result import Scan


def read_split_files(spec: DatasetSpec, root: Path, found: Scan) -> None:
    """Set the splits that the dataset's own lists name.

    A file is in the split whose list names its path, its group or a piece of its group. If
    some files of a group are in one list, the others are in that split, too.
    """
    listed = _read_lists(spec, root, found.warnings)
    if not listed:
        return
    paths, groups = (found.files[name].to_pylist() for name in ("path", "group"))
    by_group: dict[str, str] = {}
    for path, group in zip(paths, groups):
        if group and group not in by_group:
            pieces = group.split(spec.group_separator) if spec.group_separator else [group]
            split = next((listed[n] for n in (path, group, *pieces) if n in listed), None)
            if split is not None:
                by_group[group] = split
    own = found.files["folder_split"].to_pylist()
    splits = [
        listed.get(path) or by_group.get(group) or split
        for path, group, split in zip(paths, groups, own)
    ]
    column = pa.array(splits, pa.string())
    found.files = with_columns(found.files, folder_split=column)
    if none := column.null_count:
        found.warnings.append(
            f"{spec.name}: {counted(none, 'image')} in no list of a split; such images count as "
            f"{spec.default_split}"
        )


def _read_lists(spec: DatasetSpec, root: Path, warnings: list[str]) -> dict[str, str]:
    """Return the split of each path or group that a list names; warn of missing lists."""
    listed: dict[str, str] = {}
    missing = []
    for split, names in spec.split_files.items():
        for name in names:
            if (root / name).exists():
                listed = dict.fromkeys(_listed_texts(root / name), split) | listed
            else:
                missing.append(name)
    if missing:
        rest = "the splits are made by group" if not listed else "other files decide the splits"
        warnings.append(
            f"{spec.name}: the lists of its splits, {', '.join(missing)}, are not there; {rest}"
        )
    return listed


def _listed_texts(path: Path) -> list[str]:
    """Return the lines of a text file, or all texts in a JSON file.

    Raises:
        UserError: It cannot be read.
    """
    if path.suffix != ".json":
        lines = read_text(path, MAX_JSON_BYTES).splitlines()
        return [line.strip() for line in lines if line.strip()]
    texts, todo = list[str](), [read_json(path)]
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
    return texts
