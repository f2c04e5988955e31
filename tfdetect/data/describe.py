"""Says what was understood of a dataset: classes, splits, and what became of every file."""

from collections import Counter
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core import console
from tfdetect.core.folder_names import polarity
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog, build_catalog, counts_text
from tfdetect.data.scan_result import IN_MASKS, MASK_FILE, SAME_FILE

_EXAMPLES = 3
_MASK_ENDINGS = ("", "_mask", "_gt", "-mask", "-gt", "_groundtruth", "_edgemask", ".mask")
_WHY = {"name": "its name", "flag": "--authentic or --label", "spec": "the dataset spec"}
_MANY = 50  # fakes whose masks are looked for, to name the folder of masks


def read_data(
    spec: DatasetSpec,
    roots: dict[str, Path],
    progress: bool = True,
    log: console.Log | None = console.log,
) -> Catalog:
    """Build the catalog of a dataset, and print what was understood of it and its warnings.

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
    if offer := _offer_masks(spec, catalog):
        lines.append(offer)
    return lines


def describe_counts(spec: DatasetSpec, catalog: Catalog) -> str:
    """Return the number of images by split and class, as text."""
    return counts_text(catalog.counts(spec.class_names))


def describe_classes(spec: DatasetSpec) -> str:
    """Return which class is authentic and why, and which ones are fake."""
    first, *others = spec.class_names
    text = f"Authentic: {first} (by {_WHY[spec.authentic_by]}). Fake: {', '.join(others)}."
    if doubtful := [name for name in others if polarity(name) == "authentic"]:
        text += f" Check this: {', '.join(doubtful)} counts as fake."
    elif polarity(first) == "fake":
        text += f" Check this: {first} counts as authentic."
    return text


def describe_files(catalog: Catalog, listed: bool = False) -> list[str]:
    """Return what became of all files; the numbers add up.

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
        rows = catalog.skipped.slice(0, _EXAMPLES).to_pylist()
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
        return _more(sorted(paths)[:_EXAMPLES], len(paths), ", ")
    names = [f"{folder}/ {count:,}" for folder, count in counts.most_common(_EXAMPLES)]
    return _more(names, len(counts), ", ")


def _more(texts: list[str], total: int, separator: str) -> str:
    return separator.join(texts) + (f"{separator}..." if total > len(texts) else "")


def _offer_masks(spec: DatasetSpec, catalog: Catalog) -> str | None:
    """Return how to use masks that were found but belong to no class, or None."""
    left = catalog.left_out
    found = left.filter(pc.is_in(left["reason"], pa.array([IN_MASKS, MASK_FILE])))
    if not found.num_rows or catalog.table["mask"].null_count < catalog.table.num_rows:
        return None
    template = _mask_template(catalog, found["path"].to_pylist())
    fake = ", ".join(spec.class_names[1:])
    return (
        f"{counted(found.num_rows, 'file')} may be masks. To use them, describe the dataset in a "
        "spec: "
        f"in its classes, {fake} gets mask: '{template or 'FOLDER/{stem}.png'}', and the pattern a "
        "group (?P<stem>...)"
    )


def _mask_template(catalog: Catalog, masks: list[str]) -> str | None:
    """Return the path of masks as a spec names it, if they are called like their images."""
    by_stem = {PurePosixPath(path).stem: PurePosixPath(path) for path in masks}
    fakes = catalog.table.filter(pc.greater(catalog.table["label"], 0))["path"].slice(0, _MANY)
    found: Counter[str] = Counter()
    for path in map(PurePosixPath, fakes.to_pylist()):
        for ending in _MASK_ENDINGS:
            if (mask := by_stem.get(f"{path.stem}{ending}")) is not None:
                found[str(mask.with_name(f"{{stem}}{ending}{mask.suffix}"))] += 1
                break
    return found.most_common(1)[0][0] if found else None
