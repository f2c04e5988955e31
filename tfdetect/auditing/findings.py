"""What an audit found, in words, and the verdict that follows from it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.auditing.duplicates import Duplicates
from tfdetect.auditing.shortcuts import Shortcut
from tfdetect.core.spec import SPLITS
from tfdetect.data.catalog import Catalog

# Levels, from the mildest; the worst one found is the verdict.
NOTE, CARE, REFUSE = "note", "care", "refuse"
VERDICTS = {
    NOTE: "sound",
    CARE: "use with care",
    REFUSE: "do not believe results from this",
}

# Balanced accuracy, for two classes, that a trait alone must surely beat to be named, and for
# the dataset not to be believed. What leaves no trace in pixels never has the last effect.
_NAMED = {"format": 0.60, "size": 0.60, "metadata": 0.60, "name": 0.55, "content": 0.70,
          "together": 0.60, "generator": 0.60}  # fmt: skip
_REFUSED = 0.75
_VISIBLE = ("format", "size", "generator")
# The spectrum is also what honest detectors look at.
_LEVELS = {"name": NOTE, "radial spectrum": NOTE}
_SAME = {"JPEG tables": "JPEG quality", "height": "width"}  # says what the other has said

REPAIRS = {
    "duplicates": "drop duplicates, and what stands under two labels",
    "formats": "crop all images to one size and encode them alike",
    "balance": "take as many images of each class",
    "splits": "split anew, by group",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        level: note, care or refuse.
        topic: format, size, metadata, name, content, duplicates, groups, balance or files.
        text: one sentence, with its numbers.
        repair: of `REPAIRS`, what would mend it; None where nothing here would.
    """

    level: str
    topic: str
    text: str
    repair: str | None = None


def verdict(findings: list[Finding]) -> str:
    """A key of `VERDICTS`."""
    levels = list(VERDICTS)
    return max((f.level for f in findings), key=levels.index, default=NOTE)


def of_shortcuts(shortcuts: list[Shortcut], classes: tuple[str, ...]) -> Iterator[Finding]:
    """What tells the label and should not."""
    named, said = set(), set()
    for s in sorted(shortcuts, key=lambda s: -s.accuracy):
        if _SAME.get(s.name) in said:
            continue
        partly = s.value is not None and s.group in ("format", "size", "metadata", "content")
        if not s.above_chance(_NAMED[s.group]) and not partly:
            continue
        if s.group == "together":
            # Only what no trait of it shows alone.
            if s.name.startswith("format") and not named & {*_VISIBLE, "metadata"}:
                level = REFUSE if s.above_chance(_REFUSED) else CARE
                yield Finding(level, "format", _told(s, "format, size and metadata, taken "
                              "together, tell", classes), "formats")  # fmt: skip
            continue
        named.add(s.group)
        said.add(s.name)
        refused = s.group in _VISIBLE and s.above_chance(_REFUSED)
        level = REFUSE if refused else _LEVELS.get(s.name, _LEVELS.get(s.group, CARE))
        subject = {"name": "file names alone tell"}.get(s.group, f"{s.name} alone tells")
        if s.above_chance(_NAMED[s.group]):
            text = _told(s, subject, classes)
        else:
            text = f"{s.name} tells the label of some images: {valued(s, classes)}"
        yield Finding(level, s.group, text, "formats" if s.group in _VISIBLE else None)


def _told(s: Shortcut, subject: str, classes: tuple[str, ...]) -> str:
    text = (
        f"{subject} the label in {s.accuracy:.1%} of the images of each class "
        f"(chance {s.chance:.0%})"
    )
    return f"{text}: {valued(s, classes)}" if s.value else text


def valued(s: Shortcut, classes: tuple[str, ...]) -> str:
    """The most telling value, and how many of each class have it."""
    shares = ", ".join(f"{share:.1%} of {name}" for name, share in zip(classes, s.value.shares))
    words = {"true": "present", "false": "absent"}.get(s.value.text, s.value.text)
    return f"{words} in {shares}"


def of_generators(told: dict[str, Shortcut]) -> Iterator[Finding]:
    """Generators whose fakes are stored otherwise than the authentic images."""
    strange = {name: s for name, s in told.items() if s.above_chance(_NAMED["generator"])}
    if not strange or len(told) == 1:  # which is then said of the whole
        return
    level = REFUSE if any(s.above_chance(_REFUSED) for s in strange.values()) else CARE
    names = ", ".join(f"{name} {s.accuracy:.0%}" for name, s in strange.items())
    yield Finding(
        level, "format",
        f"format and size tell the fakes of {len(strange)} of {len(told)} generators from "
        f"authentic images: {names}", "formats",
    )  # fmt: skip


def of_duplicates(
    kind: str, found: Duplicates, table: pa.Table, classes: tuple[str, ...]
) -> Iterator[Finding]:
    """What stands more than once.

    Args:
        kind: "exact" or "near".
    """
    if not found.groups:
        return
    counts = pc.value_counts(table["split"].cast(pa.string())).to_pylist()
    sizes = {row["values"]: row["counts"] for row in counts}
    some = "" if found.complete else "at least "
    what = {"exact": "with exactly the same pixels", "near": "that look nearly the same"}[kind]
    if found.labels and kind == "near":  # an edited image and its original: as it should be
        yield Finding(
            NOTE, "duplicates",
            f"{some}{_images(found.labels)} look nearly the same as one under another label, such "
            "as an edited image and its original",
        )  # fmt: skip
    elif found.labels:
        yield Finding(
            REFUSE if found.labels > 0.01 * table.num_rows else CARE, "duplicates",
            f"{some}{_images(found.labels)} {what} stand under different labels", "duplicates",
        )  # fmt: skip
    if sum(found.in_test):
        share = sum(found.in_test) / sizes["test"]
        detail = _by_class(found.in_test, classes)
        yield Finding(
            REFUSE if share > 0.05 else CARE, "duplicates",
            f"{some}{sum(found.in_test):,} of {sizes['test']:,} test images ({share:.1%}) have "
            f"images {what} in train or validation ({detail})", "duplicates",
        )  # fmt: skip
    if found.in_validation:
        share = found.in_validation / sizes["validation"]
        yield Finding(
            CARE if share > 0.01 else NOTE, "duplicates",
            f"{some}{found.in_validation:,} of {sizes['validation']:,} validation images "
            f"({share:.1%}) have images {what} in train",
            "splits" if kind == "near" else "duplicates",
        )  # fmt: skip
    for where, counts in (("train and validation", found.surplus), ("test", found.surplus_in_test)):
        if sum(counts):
            share = sum(counts) / table.num_rows
            yield Finding(
                CARE if share > 0.02 else NOTE, "duplicates",
                f"{some}{_images(sum(counts))} of {where} could go, as others of their class "
                f"{what} stay ({_by_class(counts, classes)})", "duplicates",
            )  # fmt: skip


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _by_class(counts: tuple[int, ...], classes: tuple[str, ...]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in zip(classes, counts) if count)


def of_groups(table: pa.Table) -> Iterator[Finding]:
    """Groups, such as videos or source photographs, that stand in two splits."""
    if table["group"].equals(table["hash"]):
        return  # none are named; equal contents are duplicates
    pairs = table.group_by(["group", "dataset", "split"]).aggregate([([], "count_all")])
    groups = pairs.group_by(["group", "dataset"]).aggregate([([], "count_all")])
    several = int(pc.sum(pc.greater(groups["count_all"], 1)).as_py() or 0)
    if several:
        share = several / groups.num_rows
        yield Finding(
            REFUSE if share > 0.05 else CARE, "groups",
            f"{several:,} of {groups.num_rows:,} groups ({share:.1%}) stand in several splits",
            "splits",
        )  # fmt: skip


def of_balance(table: pa.Table, classes: tuple[str, ...]) -> Iterator[Finding]:
    """Classes, generators and datasets that are rare, or that stand on one side alone."""
    labels, splits = table["label"].to_numpy(), table["split"].cast(pa.string()).to_numpy()
    for label, name in enumerate(classes):
        if not (labels == label).any():
            yield Finding(REFUSE, "balance", f"there is no readable image of class {name}")
    for split in SPLITS:
        counts = np.bincount(labels[splits == split], minlength=len(classes))
        if counts.sum() and counts.min() * 5 < counts.max():
            text = _by_class(tuple(map(int, counts)), classes)
            missing = [name for name, count in zip(classes, counts) if not count]
            why = f"has no {', '.join(missing)}: {text}" if missing else f"is unbalanced: {text}"
            yield Finding(CARE if missing or split != "train" else NOTE, "balance",
                          f"{split} {why}", None if missing else "balance")  # fmt: skip
    datasets = table["dataset"].cast(pa.string())
    for name in pc.unique(datasets).to_pylist():
        mine = labels[pc.equal(datasets, name).to_numpy(zero_copy_only=False)]
        there = np.bincount(mine, minlength=len(classes))
        if len(pc.unique(datasets)) > 1 and (there == 0).any():
            missing = ", ".join(c for c, count in zip(classes, there) if not count)
            yield Finding(
                CARE, "balance",
                f"the part {name} has no {missing}: where a picture comes from tells its label",
            )  # fmt: skip
    generators = pc.drop_null(table.filter(pc.greater(table["label"], 0))["generator"])
    counts = {r["values"]: r["counts"] for r in pc.value_counts(generators).to_pylist()}
    rare = [name for name, count in counts.items() if count * 20 < max(counts.values())]
    if rare:
        yield Finding(NOTE, "balance", f"few fakes of {', '.join(sorted(rare))}: less than a "
                      "twentieth of the most frequent generator's")  # fmt: skip


def of_files(catalog: Catalog) -> Iterator[Finding]:
    """Files that cannot be used."""
    bad = catalog.skipped.num_rows
    if bad:
        share = bad / (bad + catalog.table.num_rows)
        first = catalog.skipped.slice(0, 1).to_pylist()[0]
        yield Finding(
            CARE if share > 0.01 else NOTE, "files",
            f"{bad:,} files ({share:.1%}) cannot be used: {first['path']}: {first['error']}",
        )  # fmt: skip
    for warning in catalog.warnings:
        yield Finding(NOTE, "files", warning)
