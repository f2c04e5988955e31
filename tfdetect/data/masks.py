"""The masks of a dataset: their coding, their coverage, and questions about them."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.patterns import PathPattern
from tfdetect.core.run_info import MaskCoverage, MaskInfo
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted, printable
from tfdetect.data.mask_files import MeasuredMasks, measure_masks
from tfdetect.data.scan_result import IN_MASKS, MASK_FILE
from tfdetect.imaging.mask_coding import Detection, MaskCoding

COVERAGE = "mask_coverage"  # column of the catalog: fraction of altered pixels, null without mask
COVERAGE_EXPLANATION = (
    "Fraction of altered pixels in the mask files. A fake whose mask is empty counts as one whose "
    "altered pixels are not known. Masks of authentic images are not used."
)
_MAX_EMPTY_FRACTION = 0.05  # of a class's masks: more are asked about
_INVERTED_COVERAGE = 0.75  # of most images: their masks may be inverted


@dataclass(frozen=True)
class DatasetMasks:
    """The masks of one dataset.

    Attributes:
        info: how they are read and how much they cover.
        questions: what the dataset spec has to say before the masks can be used.
        problems: what is odd about them, and what becomes of it.
        notes: what else there is to know.
        detected: what of the coding the dataset spec does not say: "channel", "values".
    """

    info: MaskInfo
    questions: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    detected: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Problems and notes, without the questions, which `check_masks` asks."""
        return self.problems + self.notes

    @property
    def coding(self) -> MaskCoding:
        """What the pixels of the masks mean."""
        info = self.info
        return MaskCoding(info.channel, info.values, info.inverted, info.bits)

    @property
    def source(self) -> str:
        """Where the coding comes from, in words."""
        if not self.detected:
            return "as the dataset spec says"
        if len(self.detected) == 2:
            return "detected"
        return f"{self.detected[0]} detected, the rest as the dataset spec says"

    def describe(self) -> str:
        """Return one line: the coding, whether it is clear, and the coverage by class."""
        parts = [f"{self.coding} ({self.source})"]
        if self.questions:
            parts.append("but it is not clear that these are altered")
        for name, found in self.info.coverage.items():
            parts.append(f"{printable(name)}: {describe_coverage(found)}")
        if self.info.resized:
            parts.append(f"{self.info.resized:,} resized to their images")
        return "; ".join(parts)


def describe_coverage(found: MaskCoverage) -> str:
    """Return the number of masks and how much they cover, in words."""
    text = f"{counted(found.count, 'mask')}, {found.empty:,} empty, {found.full:,} full"
    if found.quantiles:
        text += f", median coverage {found.quantiles[2]:.1%}"
    if found.missing:
        text += f", and {found.missing:,} of {found.count + found.missing:,} images have no mask"
    return text


def coverage_of(fractions: np.ndarray) -> MaskCoverage:
    """Return how much masks cover, from their fractions of altered pixels, float [n]."""
    if not len(fractions):
        return MaskCoverage(count=0)
    quantiles = np.quantile(fractions, [0, 0.25, 0.5, 0.75, 1]).round(6).tolist()
    return MaskCoverage(
        count=len(fractions), empty=int((fractions == 0).sum()), full=int((fractions == 1).sum()),
        quantiles=tuple(quantiles),
    )  # fmt: skip


def coverage_by_class(table: pa.Table, classes: tuple[str, ...]) -> dict[str, MaskCoverage]:
    """Return the coverage of the masks of each class that has any.

    Args:
        table: columns label and `COVERAGE`.
        classes: names of the classes, in label order.
    """
    labels = table["label"].to_numpy()
    fractions = table[COVERAGE].to_numpy()  # nan for null
    found = {}
    for label, name in enumerate(classes):
        own = fractions[labels == label]
        has_mask = ~np.isnan(own)
        if has_mask.any():
            missing = int((~has_mask).sum()) if label else 0  # authentic images need none
            found[name] = coverage_of(own[has_mask]).model_copy(update={"missing": missing})
    return found


def coverage_rows(found: dict[str, MaskCoverage]) -> tuple[list[str], list[list[str]]]:
    """Return the headers and rows of a table of coverage by class."""
    headers = ["class", "masks", "empty", "full", "without mask", "smallest", "25%", "median",
               "75%", "largest"]  # fmt: skip
    return headers, [
        [name, f"{c.count:,}", f"{c.empty:,}", f"{c.full:,}", f"{c.missing:,}",
         *(f"{q:.1%}" for q in c.quantiles or ())]
        for name, c in found.items()
    ]  # fmt: skip


def check_masks(masks: dict[str, DatasetMasks], hint: str = "") -> None:
    """Check that the meaning of the masks of datasets is clear.

    Args:
        masks: the masks of each dataset, by its name.
        hint: what else the user can do, a sentence.

    Raises:
        UserError: The dataset spec has to say it.
    """
    lines = [f"\n  {name}: {q}." for name, found in masks.items() for q in found.questions]
    if lines:
        raise UserError(
            f"It is not clear which pixels the masks mark as altered:{''.join(lines)}\n"
            "mask_channel, mask_values and mask_inverted are keys of the dataset spec, a YAML file "
            f"that can also describe a folder or name a manifest. {hint}".rstrip()
        )


def read_masks(
    spec: DatasetSpec, root: Path, files: pa.Table, left_out: pa.Table, progress: bool
) -> tuple[pa.Table, DatasetMasks | None]:
    """Read the mask of every image that has one; unchanged masks come from the cache.

    Args:
        spec: the dataset.
        root: folder to which the paths are relative.
        files: columns path, label, mask, width, height, format and mtime_ns.
        left_out: images that are no part of the dataset, with the columns path and reason.
        progress: whether to show a progress bar.

    Returns:
        The files with the columns `COVERAGE` and error, the reason why a fake's mask cannot be
        used. The mask is null for authentic images, in which nothing was altered, and for fakes
        with an empty mask, whose altered pixels are not known. And what is known of the masks;
        None if the dataset has none.
    """
    rows = np.flatnonzero(files["mask"].is_valid().to_numpy(zero_copy_only=False))
    nothing = files.append_column(COVERAGE, pa.nulls(files.num_rows, pa.float32()))
    nothing = nothing.append_column("error", pa.nulls(files.num_rows, pa.string()))
    if not len(rows):
        return nothing, None
    masks, detection = measure_masks(spec, root, files.take(pa.array(rows)), progress)
    orphans = len(_orphans(spec, files, left_out))
    labels = np.concatenate([masks.labels, files.filter(files["mask"].is_null())["label"]])
    info = _info(spec, masks, labels, detection.coding, orphans)
    found = _judge(spec, masks, detection, info)
    of_fakes = masks.labels > 0
    used = ~masks.failed & of_fakes & (masks.coverage > 0)
    unusable = masks.failed & of_fakes
    names, reasons = np.full((2, files.num_rows), None, object)
    names[rows[used]], reasons[rows[unusable]] = masks.paths[used], masks.errors[unusable]
    fractions = np.full(files.num_rows, np.nan, np.float32)
    fractions[rows] = masks.coverage
    files = with_columns(files, mask=pa.array(names, pa.string(), from_pandas=True))
    files = files.append_column(COVERAGE, pa.array(fractions, from_pandas=True))
    return files.append_column("error", pa.array(reasons, pa.string(), from_pandas=True)), found


def _info(
    spec: DatasetSpec, masks: MeasuredMasks, labels: np.ndarray, coding: MaskCoding, orphans: int
) -> MaskInfo:
    """Return the facts about masks that a run records.

    Args:
        spec: the dataset.
        masks: those of the images that name one.
        labels: int [n], of these images, then of those without a mask.
        coding: what the pixels of the masks mean.
        orphans: number of mask files without an image.
    """
    coverage = np.full(len(labels), np.nan)
    coverage[: len(masks.coverage)] = masks.coverage
    used = np.ones(len(labels), bool)
    used[: len(masks.failed)] = ~masks.failed  # fakes whose masks fail are no part of the dataset
    columns = {"label": pa.array(labels[used]), COVERAGE: pa.array(coverage[used])}
    return MaskInfo(
        **asdict(coding),
        detected=bool(_detected(spec)),
        coverage=coverage_by_class(pa.table(columns), spec.class_names),
        resized=int(masks.resized.sum()),
        orphans=orphans,
    )


def _detected(spec: DatasetSpec) -> tuple[str, ...]:
    """Return which parts of the coding were detected, not given by the spec; see `DatasetMasks`."""
    said = {"channel": spec.mask_channel, "values": spec.mask_values}
    return tuple(name for name, value in said.items() if value is None)


def _judge(
    spec: DatasetSpec, masks: MeasuredMasks, detection: Detection, info: MaskInfo
) -> DatasetMasks:
    """Return the masks with the questions, problems and notes about them."""
    questions = [detection.question] if detection.question else []
    problems = [detection.remark] if detection.remark else []
    notes = []
    for label, name in enumerate(spec.class_names):
        rows = (masks.labels == label) & ~masks.failed
        if not rows.any():
            continue
        if spec.mask_inverted is None:
            questions += _ask_if_inverted(name, masks.coverage[rows], authentic=label == 0)
        if label == 0:
            notes += _note_unused(name, masks.coverage[rows])
        else:
            question, problem = _judge_empty(spec, name, masks, rows, info)
            questions += question
            problems += problem
    if turned := int(masks.turned.sum()):
        problems.append(
            f"{counted(turned, 'image')} turned by the EXIF orientation, with a mask that is not: "
            "such masks count as drawn on the upright image"
        )
    if unused := int((masks.failed & (masks.labels == 0)).sum()):
        notes.append(
            f"{counted(unused, 'mask')} of authentic images cannot be used, and none is needed"
        )
    if info.orphans:
        notes.append(f"{counted(info.orphans, 'mask file')} without an image")
    return DatasetMasks(
        info, tuple(questions), tuple(problems), tuple(notes), detected=_detected(spec)
    )


def _judge_empty(
    spec: DatasetSpec, name: str, masks: MeasuredMasks, rows: np.ndarray, info: MaskInfo
) -> tuple[list[str], list[str]]:
    """Return the question or the problem about empty masks of fakes, each a list of at most one.

    Args:
        spec: the dataset.
        name: the name of the class.
        masks: all masks.
        rows: bool [n], those of the class that can be read.
        info: how the masks are coded.
    """
    empty = rows & (masks.coverage == 0)
    if not empty.any():
        return [], []
    count, value = int(empty.sum()), int(np.nanmax(masks.highest[empty]))
    text = (
        f"{count:,} of {counted(int(rows.sum()), 'mask')} of {name!r} "
        f"{'is' if count == 1 else 'are'} empty"
        + (f", with values up to {value}" if value and not spec.mask_inverted else "")
        + f" ({_examples(masks.paths[empty])})"
    )
    said = (spec.mask_channel, spec.mask_values, spec.mask_inverted) != (None, None, None)
    if said or count <= _MAX_EMPTY_FRACTION * rows.sum():
        return [], [f"{text}. These images count as fakes whose altered pixels are not known"]
    return [
        f"{text}. Say how they are coded with mask_channel, mask_values or mask_inverted. If that "
        f"is right, say so too, such as with mask_values: {list(info.values)}; then these images "
        "count as fakes whose altered pixels are not known"
    ], []


def _ask_if_inverted(name: str, coverage: np.ndarray, authentic: bool) -> list[str]:
    """Return the question about masks that mark most of their images, if those of a class do."""
    median = float(np.median(coverage))
    if median <= _INVERTED_COVERAGE:
        return []
    return [
        f"the masks of {name!r} mark most of their images as altered (median "
        f"{median:.0%}{', though these are authentic' if authentic else ''}). If they are "
        "inverted, set mask_inverted: true; if they are not, mask_inverted: false"
    ]


def _note_unused(name: str, coverage: np.ndarray) -> list[str]:
    """Return the note about masks of authentic images that mark pixels, if there are any."""
    filled = int((coverage > 0).sum())
    if not filled:
        return []
    return [
        f"Pixels are marked in {filled:,} of {counted(len(coverage), 'mask')} of {name!r}, the "
        "authentic class. Such masks are not used, since nothing is altered in these images"
    ]


def _examples(paths: np.ndarray) -> str:
    return ", ".join(map(printable, paths[:3])) + (", ..." if len(paths) > 3 else "")


def _orphans(spec: DatasetSpec, files: pa.Table, left_out: pa.Table) -> list[str]:
    """Return the files that look like masks and belong to no image."""
    is_orphan = pc.is_in(left_out["reason"], pa.array([IN_MASKS, MASK_FILE]))
    found = left_out.filter(is_orphan)["path"].to_pylist()
    if not found or spec.manifest:
        return found
    # Masks of objects in authentic images are not named by the spec, but belong to them.
    claimed = {os.path.splitext(mask)[0] for mask in _masks_of_authentic(spec, files)}
    return [path for path in found if os.path.splitext(path)[0] not in claimed]


def _masks_of_authentic(spec: DatasetSpec, files: pa.Table) -> Iterator[str]:
    """Yield the masks that authentic images would have if they were fakes."""
    paths = files.filter(pc.equal(files["label"], 0))["path"].to_pylist()
    for groups in PathPattern(spec.pattern or "").match(paths):
        for c in spec.classes:
            if groups and c.mask:
                yield c.mask.format(**groups)
