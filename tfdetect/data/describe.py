"""Describe in words how a dataset was read: its classes and splits, and the use of every file."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from tfdetect.core import console
from tfdetect.core.folder_names import class_polarity, contains
from tfdetect.core.load_spec import DESCRIPTION
from tfdetect.core.patterns import PathPattern
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.catalog import Catalog, counts_text
from tfdetect.data.scan_result import IN_MASKS, MASK_FILE, SAME_FILE

_EXAMPLES = 3
_MASK_ENDINGS = ("", "_mask", "_gt", "-mask", "-gt", "_groundtruth", "_edgemask", ".mask")
_WHY = {"name": "its name", "flag": "--authentic or --label", "spec": "the dataset spec"}
_STEM = r"(?P<stem>[^/]+?)(\.[^./]+)?"  # of a file, whose suffix may be missing
_MANY = 50  # fakes whose masks are looked for, to name the folder of masks


def read_data(
    spec: DatasetSpec,
    roots: dict[str, Path],
    progress: bool = True,
    log: console.Log | None = console.log,
) -> Catalog:
    """Build the catalog of a dataset, and print a description of it and its warnings.

    Args:
        spec, roots, progress: see `build_catalog`.
        log: called with each line; None prints nothing.
    """
    catalog = build_catalog(spec, roots, progress)
    if log is not None:
        for line in describe_data(spec, catalog):
            log(line)
        for warning in catalog.warnings:
            console.warn(warning)
    return catalog


def describe_data(spec: DatasetSpec, catalog: Catalog) -> list[str]:
    """Return lines on folders, splits and classes, the authentic class, and the files.

    Args:
        spec: the dataset.
        catalog: its files.
    """
    lines = [
        f"Data in {', '.join(map(str, catalog.roots.values()))}: " + describe_counts(spec, catalog)
    ]
    if spec.pattern and spec.authentic_by != "spec":  # no spec describes the layout
        lines.append(f"{spec.title}.")
    if not spec.pretraining:
        lines.append(describe_classes(spec))
    if "shard" not in catalog.table.column_names:
        lines += describe_files(catalog, spec.manifest is not None)
    lines += catalog.describe_masks()
    return lines + _offer_masks(spec, catalog)


def describe_counts(spec: DatasetSpec, catalog: Catalog) -> str:
    """Return the number of images by split and class, as text."""
    return counts_text(catalog.counts(spec.class_names))


def describe_classes(spec: DatasetSpec) -> str:
    """Return which class is authentic and why, and which ones are fake."""
    first, *others = spec.class_names
    text = f"Authentic: {first} (by {_WHY[spec.authentic_by]}). Fake: {', '.join(others)}."
    if doubtful := [name for name in others if class_polarity(name) == "authentic"]:
        text += f" Check this: {', '.join(doubtful)} counts as fake."
    elif class_polarity(first) == "fake":
        text += f" Check this: {first} counts as authentic."
    return text


def describe_files(catalog: Catalog, listed: bool = False) -> list[str]:
    """Return how many files are used, skipped or left out; the numbers add up.

    Args:
        catalog: the dataset.
        listed: whether its files are those that a manifest names, not all below its folder.
    """
    used, bad, left = (t.num_rows for t in (catalog.table, catalog.skipped, catalog.left_out))
    other = catalog.other.total()
    lines = [
        f"Files: {catalog.total:,} = {counted(used, 'image')} used + {bad:,} that cannot be used + "
        f"{left:,} left out + "
        f"{'1 that is no image' if other == 1 else f'{other:,} that are no images'}"
        + (" (those that the manifest names)" if listed else "")
    ]
    if bad:
        rows = catalog.skipped.slice(0, _shown(bad)).to_pylist()
        lines.append("  cannot be used: " + _more(
            [f"{row['path']} ({row['error']})" for row in rows], bad, "; "))  # fmt: skip
    for reason, paths in _by_reason(catalog.left_out).items():
        lines.append(f"  left out, since {reason}: {len(paths):,} ({_folders(paths)})")
    if several := catalog.several_frames:
        lines.append(
            f"  with several frames or pages, of which only the first is read: {several:,}"
        )
    if other:
        kinds = [f"{kind} {count:,}" for kind, count in catalog.other.most_common(8)]
        lines.append(f"  no images: {_more(kinds, len(catalog.other), ', ')}")
    return lines


def _by_reason(left_out: pa.Table) -> dict[str, list[str]]:
    """Return the paths of what is left out, by the reason; the most frequent first."""
    found: dict[str, list[str]] = {}
    for row in left_out.to_pylist():
        reason = row["reason"]
        if reason.startswith(SAME_FILE):
            reason = f"{SAME_FILE} another one"
        found.setdefault(reason, []).append(row["path"])
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _folders(paths: list[str]) -> str:
    """Return the folders of paths, the most frequent first; of one path in each, the paths."""
    counts = Counter(str(PurePosixPath(path).parent) for path in paths)
    if len(counts) > len(paths) // 2 or len(paths) <= _EXAMPLES:
        return _more(sorted(paths)[: _shown(len(paths))], len(paths), ", ")
    most = counts.most_common(_shown(len(counts)))
    names = [f"{folder}/ {count:,}" for folder, count in most]
    return _more(names, len(counts), ", ")


def _shown(total: int) -> int:
    """Return how many examples are shown: all, if leaving out the others saved no line."""
    return total if total <= _EXAMPLES + 1 else _EXAMPLES


def _more(texts: list[str], total: int, separator: str) -> str:
    return separator.join(texts) + (f"{separator}..." if total > len(texts) else "")


def _offer_masks(spec: DatasetSpec, catalog: Catalog) -> list[str]:
    """Return how to use masks that were found but belong to no class, as lines."""
    left = catalog.left_out
    is_mask = pc.is_in(left["reason"], pa.array([IN_MASKS, MASK_FILE]))
    masks = left["path"].filter(is_mask).to_pylist()
    if not masks or catalog.table["mask"].null_count < catalog.table.num_rows:
        return []
    if not catalog.table["label"].to_numpy().any():  # nothing that a mask could be of
        return []
    line = f"{counted(len(masks), 'file')} may be masks."
    if spec.parts:
        return [f"{line} Give the part that has them alone to see how to use them"]
    if found := _spec_with_masks(spec, catalog, masks):
        described, used = found
        [root] = catalog.roots.values()
        how = f"save this dataset spec as {root / DESCRIPTION}, by which the folder is read then"
        if spec.authentic_by == "spec":
            how = "give the dataset's spec these values"
        fakes = pc.sum(pc.greater(catalog.table["label"], 0)).as_py()
        return [
            f"{line} To use them, {how}; {used:,} of {counted(fakes, 'fake')} have a mask"
            + (", and the others cannot be used with it:" if used < fakes else ":"),
            yaml.safe_dump(described, sort_keys=False, allow_unicode=True, width=1000).rstrip(),
        ]
    return [
        f"{line} None is called like a fake: list the images in a CSV file with the columns path, "
        "label and mask, and give that to --dataset"
    ]


def _spec_with_masks(
    spec: DatasetSpec, catalog: Catalog, masks: list[str]
) -> tuple[dict[str, Any], int] | None:
    """Return a spec that uses masks called like their images, and how many images get one.

    None if no mask is called so, or if the dataset is not described by a pattern that can be
    extended.

    Args:
        spec: the spec of the dataset.
        catalog: its files.
        masks: paths of files that may be masks.
    """
    pattern = spec.pattern or ""
    if not pattern.endswith("/.+") and not pattern.endswith(")?.+"):
        return None
    known = PathPattern(pattern).groups
    if "folder" in known or "stem" in known:
        return None
    pattern = f"(?P<folder>{pattern.removesuffix('.+')}(?:.+/)?){_STEM}"
    table, there = catalog.table, set(masks)
    classes, used = [], 0
    for label, one in enumerate(spec.classes):
        paths = table.filter(pc.equal(table["label"], label))["path"].to_pylist() if label else []
        rows = [row for row in PathPattern(pattern).match(paths) if row is not None]
        template = _mask_template(rows[:: max(1, len(rows) // _MANY)], masks)
        values: dict[str, Any] = {"name": one.name, "folders": list(one.folders)}
        if template is not None:
            values["mask"] = template
            used += sum(template.format(**row) in there for row in rows)
        classes.append(values)
    if not used:
        return None
    if not any("{folder}" in values.get("mask", "") for values in classes):
        pattern = f"{spec.pattern}".removesuffix(".+") + f"(?:.+/)?{_STEM}"
    left_out = catalog.left_out["path"].to_pylist()
    folders = {folder for path in left_out for folder in path.split("/")[:-1]}
    own = [phrase for phrase in spec.leave_out if any(contains(name, [phrase]) for name in folders)]
    described = {"name": spec.name, "pattern": pattern, "classes": classes}
    if spec.authentic_by == "flag":
        described["authentic"] = spec.class_names[0]
    described |= {"leave_out": own or list(spec.leave_out[:1])}  # masks beside images, too
    defaults = DatasetSpec(**described)
    for key in ("splits", "generators", "default_split", "validation_fraction", "max_pixels"):
        if (value := getattr(spec, key)) != getattr(defaults, key):
            described[key] = value
    return described, used


def _mask_template(rows: list[dict[str, str]], masks: list[str]) -> str | None:
    """Return the path of masks as a spec names it, if they are called like their images.

    Args:
        rows: what the groups of a spec's pattern matched in the paths of images, with the groups
            folder and stem.
        masks: paths of masks.
    """
    by_stem: dict[str, list[PurePosixPath]] = {}
    for path in map(PurePosixPath, masks):
        by_stem.setdefault(path.stem, []).append(path)
    found: Counter[str] = Counter()
    for row in rows:
        for ending in _MASK_ENDINGS:
            for mask in by_stem.get(f"{row['stem']}{ending}", []):
                folder = "" if mask.parent == PurePosixPath() else f"{mask.parent}/"
                name = f"{{stem}}{ending}{mask.suffix}"
                named = "/".join(_as_group(part, row) for part in folder.split("/"))
                found.update({f"{{folder}}{name}"} if folder == row["folder"] else
                             {f"{folder}{name}", f"{named}{name}"})  # fmt: skip
    return found.most_common(1)[0][0] if found else None


def _as_group(part: str, row: dict[str, str]) -> str:
    """Return the name of a folder, or the group in braces that matched this name."""
    return next((f"{{{name}}}" for name in ("split", "class") if row.get(name) == part), part)
