"""Writes a fixed copy of a dataset: without duplicates, balanced, split again, in one format.

Formats are unified after Grommelt et al., "Fake or JPEG?" (arXiv 2403.17608): images are cropped,
never resized; JPEGs below the common quality are removed; all are encoded with that quality.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from tfdetect.auditing.audit_dataset import Audit
from tfdetect.auditing.findings import FIXES
from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.files import check_writable, staged, write_text
from tfdetect.core.spec import SPLITS, ClassSpec, DatasetSpec
from tfdetect.core.text import MAX_NAME_BYTES, below, counted, file_name, from_os, to_os
from tfdetect.data.catalog import Catalog
from tfdetect.data.parallel import read_all
from tfdetect.data.splits import carve, classes_of, group_fraction
from tfdetect.imaging.formats import ImageError, read_bytes
from tfdetect.imaging.headers import read_header
from tfdetect.imaging.mask_coding import STANDARD, MaskCoding, MaskError, decode_mask
from tfdetect.imaging.pillow import read_rgb

if TYPE_CHECKING:
    from PIL import Image

NOTHING_TO_FIX = (
    "the audit found nothing that can be fixed automatically. To apply fixes anyway, name them: "
    f"--fixes {','.join(FIXES)}"
)
_DEFAULT_QUALITY = 96  # of JPEG, if no class is mostly JPEG
_KEPT_FRACTION = 0.9  # of each class's images are at least as large as the common size
_BLOCK = 8  # of JPEG; crops begin at a multiple, so that an image's block grid does not move


@dataclass(frozen=True)
class FixedDataset:
    """A fixed copy of a dataset.

    Attributes:
        folder: holds dataset.yaml, manifest.csv and, if formats were unified, the images.
        steps: what each step did, one line per step.
    """

    folder: Path
    steps: tuple[str, ...]


def needed_fixes(audit: Audit) -> list[str]:
    """Return the fixes that the findings of an audit call for, in the order of application."""
    needed = {finding.fix for finding in audit.findings}
    return [name for name in FIXES if name in needed]


def select_fixes(audit: Audit, fixes: Sequence[str] | None) -> list[str]:
    """Return the fixes to apply, in the order in which they are applied.

    Args:
        audit: the audit of the dataset.
        fixes: names of `FIXES`; None for those that the findings call for.

    Raises:
        UserError: an unknown name, or no finding that can be fixed.
    """
    if fixes is None:
        if found := needed_fixes(audit):
            return found
        raise UserError(f"{audit.spec.name}: {NOTHING_TO_FIX}")
    for name in fixes:
        if name not in FIXES:
            raise unknown("fix", name, FIXES)
    return [name for name in FIXES if name in fixes]


def fix_dataset(audit: Audit, folder: Path, fixes: list[str], progress: bool) -> FixedDataset:
    """Write a fixed copy of an audited dataset; the original is unchanged.

    Without the fix "formats" the manifest names the original files by absolute paths: the folder
    can be moved, they can not.

    Args:
        audit: the audit of the dataset.
        folder: a new directory for the copy.
        fixes: names of `FIXES`.
        progress: whether to show progress.

    Raises:
        UserError: the folder is not empty, a class would lose all of its images, or the parts of
            a union have masks in several codings that are not written again.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty. Choose a new directory for the fixed dataset.")
    coding = _coding_of_copy(audit, fixes)
    check_writable(folder, "--fix")
    kept = _select_images(audit, fixes)
    table = kept.table
    with staged(folder) as new:
        if "formats" in fixes:
            paths, masks, written = _write_images(
                audit.catalog, kept, audit.spec.class_names, new, progress
            )
            table, paths, masks = (part.filter(written) for part in (table, paths, masks))
        else:
            paths, masks = (
                _absolute_paths(audit.catalog.paths(table, column)) for column in ("path", "mask")
            )
        manifest = pa.table({
            "path": paths,
            "label": pc.take(pa.array(audit.spec.class_names), table["label"]),
            "generator": table["generator"].cast(pa.string()),
            "mask": masks,
            "group": table["group"],
            "split": table["split"].cast(pa.string()),
        })  # fmt: skip
        pacsv.write_csv(manifest, new / "manifest.csv")
        write_text(new / "dataset.yaml", _fixed_spec(audit.spec, fixes, coding).to_yaml())
    remain = f"kept: {manifest.num_rows:,} of {counted(audit.traits.num_rows, 'image')}"
    if "formats" not in fixes:
        remain += ", where they are: manifest.csv names the original files"
    return FixedDataset(folder, (*kept.steps, remain))


def _coding_of_copy(audit: Audit, fixes: list[str]) -> MaskCoding:
    """Return how the copy's masks are coded.

    Raises:
        UserError: in several ways, and they are not written again.
    """
    codings = {masks.coding for masks in audit.catalog.masks.values()}
    if "formats" in fixes or not codings:
        return STANDARD
    if len(codings) > 1:
        raise UserError(
            f"The masks of {audit.spec.name} are coded in several ways "
            f"({'; '.join(sorted(map(str, codings)))}), which one manifest cannot say. Add the fix "
            "that writes them again: --fixes formats"
        )
    return next(iter(codings))


@dataclass(frozen=True)
class _Kept:
    """The images that a fixed copy contains.

    Attributes:
        table: their rows of `Audit.traits`, with the column index: their numbers there.
        side: the side of the crops in pixels; None keeps whole images.
        quality: JPEG quality.
        steps: what each step did.
    """

    table: pa.Table
    side: int | None
    quality: int
    steps: tuple[str, ...]


def _select_images(audit: Audit, fixes: list[str]) -> _Kept:
    """Choose images and splits by the fixes.

    Raises:
        UserError: a class would lose all of its images.
    """
    table, steps = audit.traits, []
    side, quality = None, _DEFAULT_QUALITY
    table = table.append_column("index", pa.array(np.arange(table.num_rows)))
    table = table.filter(pc.is_valid(table["pixels"]))  # those that can be read
    if "duplicates" in fixes:
        table, text = _without_duplicates(audit, table)
        steps.append(text)
    if "splits" in fixes:
        table = _split_again(audit, table)
        steps.append("split again, by group")
    if "formats" in fixes:
        kept = _select_for_one_format(table)
        table, side, quality = kept.table, kept.side, kept.quality
        steps += kept.steps
    if "balance" in fixes:
        table, text = _balance(table)
        steps.append(text)
    names = audit.spec.class_names
    left = np.bincount(table["label"].to_numpy(), minlength=len(names))
    if not left.all():
        lost = ", ".join(name for name, count in zip(names, left) if not count)
        raise UserError(
            f"Fixing {audit.spec.name} would leave no image of class {lost}: {'; '.join(steps)}. "
            "Name fewer fixes with --fixes."
        )
    return _Kept(table, side, quality, tuple(steps))


def _fixed_spec(spec: DatasetSpec, fixes: list[str], coding: MaskCoding) -> DatasetSpec:
    return DatasetSpec(
        name=file_name(spec.name.replace("+", "_"), "_fixed", MAX_NAME_BYTES),
        title=f"{spec.title or spec.name}, fixed: {', '.join(fixes)}",
        source=spec.source.model_copy(update={"kaggle": None, "builtin": None}),
        manifest="manifest.csv",
        classes=tuple(ClassSpec(name=n, folders=(n,)) for n in spec.class_names),
        authentic=spec.class_names[0],
        authentic_by=spec.authentic_by,
        pretraining=spec.pretraining,
        splits={split: split for split in SPLITS},
        max_pixels=spec.max_pixels,
        mask_channel=coding.channel,
        mask_values=coding.values,
        mask_inverted=coding.inverted,
        experiment=spec.experiment,
    )


def _without_duplicates(audit: Audit, table: pa.Table) -> tuple[pa.Table, str]:
    """Keep one image per class and group of duplicates, none of exact ones with several labels.

    If a group occurs in the test split, its images in other splits are removed.
    """
    dropped = np.zeros(audit.traits.num_rows, bool)
    labels = audit.traits["label"].to_numpy()
    tests = pc.equal(audit.traits["split"].cast(pa.string()), "test").to_numpy()
    for found in (audit.exact, audit.near):
        # Test images stay, so that figures on them can be compared.
        order = np.lexsort((found.rows, ~tests[found.rows], labels[found.rows], found.group))
        rows, group = found.rows[order], found.group[order]
        same = (group[1:] == group[:-1]) & (labels[rows[1:]] == labels[rows[:-1]])
        dropped[rows[1:][same]] = True
        tested = np.bincount(group, tests[rows], found.groups) > 0
        dropped[rows[tested[group] & ~tests[rows]]] = True
        if found is audit.exact:
            kinds = np.zeros((found.groups, len(audit.spec.class_names)), bool)
            kinds[group, labels[rows]] = True
            dropped[rows[(kinds.sum(1) > 1)[group]]] = True
    keep = ~dropped[table["index"].to_numpy()]
    return table.filter(pa.array(keep)), f"{int((~keep).sum()):,} duplicates removed"


def _split_again(audit: Audit, table: pa.Table) -> pa.Table:
    """Split by a stable hash of the group; near duplicates count as one group."""
    groups = table["group"].to_pylist()
    near = np.full(audit.traits.num_rows, -1)
    near[audit.near.rows] = audit.near.group
    first: dict[int, str] = {}
    for row, number in enumerate(near[table["index"].to_numpy()]):
        if number >= 0:
            groups[row] = first.setdefault(int(number), groups[row])
    names = sorted(set(groups))
    fractions = np.array([group_fraction(audit.spec.name, name) for name in names])
    number_of = {name: number for number, name in enumerate(names)}
    codes, labels = np.array([number_of[g] for g in groups], int), table["label"].to_numpy()
    present = classes_of(codes, labels, len(names), len(audit.spec.classes))
    carved = carve(fractions, audit.spec.test_fraction, audit.spec.validation_fraction, present)
    splits = pc.take(pa.array(SPLITS), pa.array(carved[codes]))
    return with_columns(table, group=pa.array(groups), split=splits)


def _select_for_one_format(table: pa.Table) -> _Kept:
    """Keep images that can be cropped to one size, and encoded again at one JPEG quality."""
    labels = table["label"].to_numpy()
    lossy = pc.equal(table["format"].cast(pa.string()), "JPEG").to_numpy(zero_copy_only=False)
    quality = pc.fill_null(table["quality"], 100).to_numpy()
    per_class = [np.median(quality[lossy & (labels == c)]) for c in np.unique(labels)
                 if (lossy & (labels == c)).mean() > 0.05]  # fmt: skip
    common = round(min(per_class)) if per_class else _DEFAULT_QUALITY
    keep = ~lossy | (quality >= common)
    smaller = np.minimum(table["width"].to_numpy(), table["height"].to_numpy())
    sizes = {tuple(p) for p in zip(table["width"].to_pylist(), table["height"].to_pylist())}
    side = None
    if len(sizes) > 1:
        side = int(
            min(np.quantile(smaller[labels == c], 1 - _KEPT_FRACTION) for c in np.unique(labels))
        )
        side = max(1, side // _BLOCK * _BLOCK or side)
        keep &= smaller >= side
    text = f"{int((~keep).sum()):,} too small or too compressed images removed, the others "
    text += f"cropped to {side}x{side} pixels and " if side else ""
    text += f"encoded as JPEG of quality {common} without metadata"
    return _Kept(table.filter(pa.array(keep)), side, common, (text,))


def _balance(table: pa.Table) -> tuple[pa.Table, str]:
    """Keep equally many images of each class in each split, drawn by a hash of their content."""
    labels = table["label"].to_numpy()
    splits = table["split"].cast(pa.string()).to_numpy()
    order = np.argsort([group_fraction("balance", h) for h in table["hash"].to_pylist()])
    keep = np.zeros(len(labels), bool)
    for split in SPLITS:
        rows = [order[(labels == c)[order] & (splits == split)[order]] for c in np.unique(labels)]
        fewest = min(map(len, rows))
        for each in rows:
            keep[each[: fewest or None]] = True
    return table.filter(pa.array(keep)), f"{int((~keep).sum()):,} removed for balance"


def _absolute_paths(paths: pa.ChunkedArray) -> pa.Array:
    found = [path and from_os(os.path.realpath(to_os(path))) for path in paths.to_pylist()]
    return pa.array(found, pa.string())


def _write_images(
    catalog: Catalog, kept: _Kept, names: tuple[str, ...], folder: Path, progress: bool
) -> tuple[pa.ChunkedArray, pa.ChunkedArray, pa.ChunkedArray]:
    """Write every image in one format, and every mask as PNG, 255 where altered.

    Returns:
        The paths of images and of masks below the folder, and whether each row was written.
    """
    items, targets, table = [], [], kept.table
    labels, kinds = table["label"].to_pylist(), table["format"].to_pylist()
    paths = catalog.paths(table).to_pylist()
    codings = {name: masks.coding for name, masks in catalog.masks.items()}
    codings_of = [codings.get(name, STANDARD) for name in table["dataset"].to_pylist()]
    # Numbered by a hash of the content, so that file names cannot leak the label.
    numbers = np.argsort(np.argsort(table["hash"].to_numpy(), kind="stable")).tolist()
    for kind, suffix, column in (
        ("images", ".jpg", paths), ("masks", ".png", catalog.paths(table, "mask").to_pylist()),
    ):  # fmt: skip
        for row, path in enumerate(column):
            target = path and f"{kind}/{names[labels[row]]}/{numbers[row]:07}{suffix}"
            targets.append(target)
            if path:
                below(folder, target).parent.mkdir(parents=True, exist_ok=True)
                mask = None
                if kind == "masks":
                    mask = _Mask(to_os(paths[row]), kinds[row], codings_of[row])
                items.append((to_os(path), str(folder / target), mask))
    schema = pa.schema([("target", pa.string()), ("written", pa.bool_())])
    encode = partial(write_cropped, kept.side, kept.quality, catalog.max_pixels)
    results = read_all(encode, items, schema, "writing images", progress, _unwritten)
    written = dict(zip(results["target"].to_pylist(), results["written"].to_pylist()))
    count = len(labels)
    complete = [
        all(target is None or written[str(folder / target)] for target in targets[row::count])
        for row in range(count)
    ]
    images, masks = (
        pa.chunked_array([pa.array(part, pa.string())])
        for part in (targets[:count], targets[count:])
    )
    return images, masks, pa.chunked_array([pa.array(complete)])


class _Mask(NamedTuple):
    """What is needed to read a mask: path and format of its image, and what its pixels mean."""

    image: str
    kind: str
    coding: MaskCoding


def _unwritten(item: tuple) -> tuple[str, bool]:
    """Return the row of an image that ends the process that encodes it."""
    return item[1], False


def write_cropped(
    side: int | None, quality: int, max_pixels: int, item: tuple[str, str, _Mask | None]
) -> tuple[str, bool]:
    """Crop the center of an image or a mask and write it.

    Args:
        side: the side of the crop; None keeps the whole image.
        quality: JPEG quality.
        max_pixels: images with more pixels are not read.
        item: source, target and, for a mask, how it is read.

    Returns:
        The target, and whether it was written.
    """
    source, target, mask = item
    try:
        if mask is None:
            picture = read_rgb(source, max_pixels)
        else:
            picture = _fitted_mask(source, mask, max_pixels)
        if side:
            left, top = ((length - side) // 2 // _BLOCK * _BLOCK for length in picture.size)
            picture = picture.crop((left, top, left + side, top + side))
        data = io.BytesIO()
        if mask is None:
            picture.save(data, "JPEG", quality=quality)
        else:
            picture.save(data, "PNG")
    except (ImageError, MaskError):  # broken since the audit
        return target, False
    Path(target).write_bytes(data.getvalue())
    return target, True


def _fitted_mask(path: str, mask: _Mask, max_pixels: int) -> "Image.Image":
    """Return a mask at the size of its image, 255 where altered and 0 elsewhere."""
    from PIL import Image

    data = read_bytes(path, max_pixels)
    pixels = Image.fromarray(decode_mask(data, mask.coding, max_pixels) * 255)
    size = read_header(read_bytes(mask.image, max_pixels)).upright
    return pixels if pixels.size == size else pixels.resize(size, Image.Resampling.NEAREST)
