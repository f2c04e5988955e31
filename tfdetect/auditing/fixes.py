"""Writes a fixed copy of a dataset: without duplicates, balanced, split again, in one format."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from tfdetect.auditing.audit_dataset import Audit
from tfdetect.auditing.findings import FIXES
from tfdetect.auditing.fix_images import write_images
from tfdetect.auditing.fix_selection import select_images
from tfdetect.core.errors import UserError, unknown
from tfdetect.core.files import check_writable, staged, write_text
from tfdetect.core.spec import SPLITS, ClassSpec, DatasetSpec
from tfdetect.core.text import MAX_NAME_BYTES, counted, file_name, from_os, to_os
from tfdetect.imaging.mask_coding import STANDARD, MaskCoding

NOTHING_TO_FIX = (
    "the audit found nothing that can be fixed automatically. To apply fixes anyway, name them: "
    f"--fixes {','.join(FIXES)}"
)


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
    """Return the fixes that the findings of an audit call for, names of `FIXES` in its order."""
    needed = {finding.fix for finding in audit.findings}
    return [name for name in FIXES if name in needed]


def select_fixes(audit: Audit, fixes: Sequence[str] | None) -> list[str]:
    """Return the fixes to apply, names of `FIXES` in its order.

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

    Without the fix "formats", no image is copied: the manifest has the absolute paths of the
    original files. Then the folder may be moved, but the original files may not.

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
    coding = _mask_coding(audit, fixes)
    check_writable(folder, "--fix")
    selection = select_images(audit, fixes)
    table, classes = selection.table, audit.spec.class_names
    with staged(folder) as new:
        if "formats" in fixes:
            *paths, written = write_images(audit.catalog, selection, classes, new, progress)
            table, images, masks = (part.filter(written) for part in (table, *paths))
        else:
            images, masks = (
                _absolute_paths(audit.catalog.paths(table, column)) for column in ("path", "mask")
            )
        manifest = pa.table({
            "path": images,
            "label": pc.take(pa.array(classes), table["label"]),
            "generator": table["generator"].cast(pa.string()),
            "mask": masks,
            "group": table["group"],
            "split": table["split"].cast(pa.string()),
        })  # fmt: skip
        pacsv.write_csv(manifest, new / "manifest.csv")
        write_text(new / "dataset.yaml", _fixed_spec(audit.spec, fixes, coding).to_yaml())
    kept = f"{manifest.num_rows:,} of {counted(audit.traits.num_rows, 'image')} kept"
    if "formats" not in fixes:
        kept += "; manifest.csv names the original files, which are not copied"
    return FixedDataset(folder, (*selection.steps, kept))


def _mask_coding(audit: Audit, fixes: list[str]) -> MaskCoding:
    """Return how the masks of the fixed copy are coded.

    Raises:
        UserError: the masks have several codings, and they are not written again.
    """
    codings = {masks.coding for masks in audit.catalog.masks.values()}
    if "formats" in fixes or not codings:
        return STANDARD
    if len(codings) > 1:
        raise UserError(
            f"The masks of {audit.spec.name} are coded in several ways "
            f"({'; '.join(sorted(map(str, codings)))}), and one manifest can describe only one. "
            "Add the fix that writes the masks again: --fixes formats"
        )
    return next(iter(codings))


def _fixed_spec(spec: DatasetSpec, fixes: list[str], coding: MaskCoding) -> DatasetSpec:
    """Return the dataset spec of the fixed copy."""
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


def _absolute_paths(paths: pa.ChunkedArray) -> pa.Array:
    found = [path and from_os(os.path.realpath(to_os(path))) for path in paths.to_pylist()]
    return pa.array(found, pa.string())
