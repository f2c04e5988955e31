"""Turns the measurements of an audit into findings in plain words, and into a verdict."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.auditing.duplicates import Duplicates
from tfdetect.auditing.shortcuts import COMBINED, Shortcut, groups_by_class
from tfdetect.core.spec import SPLITS, DatasetSpec
from tfdetect.core.text import capitalized, counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.check_catalog import too_many_unusable
from tfdetect.data.splits import TRAIN, few_images, few_of_a_class, split_numbers

# Severity levels, the mildest first; the most severe one found decides the verdict.
NOTE, CAUTION, UNRELIABLE = "note", "caution", "unreliable"
LEVELS = (NOTE, CAUTION, UNRELIABLE)
# Verdicts by level: what results from this dataset are worth.
SOUND = "sound"
VERDICTS = {NOTE: SOUND, CAUTION: CAUTION, UNRELIABLE: UNRELIABLE}

# Balanced accuracy for two classes that a trait must significantly exceed to be reported, by
# group, and to make the dataset unreliable. Only traits that leave traces in pixels can do that.
_MIN_ACCURACY = {"format": 0.60, "size": 0.60, "metadata": 0.60, "name": 0.55, "content": 0.70,
                 "combined_file": 0.60, "generator": 0.60}  # fmt: skip
_UNRELIABLE_ACCURACY = 0.75
_IN_PIXELS = ("format", "size")
_UNRELIABLE_CONFLICTS = 0.01  # fraction of images whose labels contradict each other
_MIN_BALANCED = 100  # images of each class in train that the fix "balance" must leave
_MIN_GROUPS = 5  # of validation and of test; metrics on fewer are called uncertain
# Traits that are reported as notes only: file names leave no trace in pixels, and detectors may
# rightly use the spectrum.
_NOTE_GROUPS, _NOTE_TRAITS = ("name",), ("radial spectrum",)
# Traits that are not reported if the trait that implies them is reported.
_IMPLIED_BY = {"JPEG tables": "JPEG quality", "height": "width"}

FIXES: dict[str, str] = {
    "duplicates": "remove duplicates and images with conflicting labels",
    "formats": "crop all images to one size and encode them in one format, without metadata",
    "balance": "keep equally many images of each class",
    "splits": "split again by group",
}


# What to do about traits that no fix is proposed for, by their group or name.
_ADVICE = {
    "metadata": "A detector reads pixels alone, so this needs no fix before a training. It shows "
    "that the classes come from different sources, which may differ in their pixels, too. The fix "
    "'formats' (--fixes formats) writes a copy without metadata.",
    "name": "A detector does not see file names, so this needs no fix.",
    "content": "No fix can change what images show: choose images of the classes that show similar "
    "things, or leave out those that differ.",
}
_ADVICE_BY_NAME = {
    "radial spectrum": "This may be the trace of a generator, which a detector should find, or of "
    "resizing and compression, which it should not: compare how the classes were made.",
    "bytes per pixel": "It depends on what images show and on their compression. The fix 'formats' "
    "(--fixes formats) compresses all images alike.",
}


@dataclass(frozen=True)
class Finding:
    """One problem of a dataset, or something worth knowing.

    Attributes:
        level: one of `LEVELS`.
        topic: format, size, metadata, name, content, duplicates, groups, balance, files or masks.
        text: one sentence with its numbers.
        fix: the key of `FIXES` that would fix it; None if none of them does.
        setting: a setting of the experiment, KEY=VALUE, that makes up for the problem; None if no
            setting does.
        advice: what else to do, in sentences.
        contradiction: whether labels contradict each other, which `train --strict` refuses at any
            level.
    """

    level: str
    topic: str
    text: str
    fix: str | None = None
    setting: str | None = None
    contradiction: bool = False
    advice: str = ""

    @property
    def remedy(self) -> str:
        """What to do about the problem, in sentences; "" where the text says so."""
        fix = f"Fix: {FIXES[self.fix]} (--fixes {self.fix})." if self.fix else ""
        return " ".join(filter(None, (fix, self.advice)))


def worst_level(findings: Iterable[Finding]) -> str:
    """Return the most severe level of some findings; "note" if there are none."""
    return max((f.level for f in findings), key=LEVELS.index, default=NOTE)


def shortcut_findings(shortcuts: list[Shortcut], classes: tuple[str, ...]) -> Iterator[Finding]:
    """Yield a finding for each trait that predicts the label.

    Traits that are combined are reported only if no single trait predicts the label.

    Args:
        shortcuts: the shortcuts from `find_shortcuts`.
        classes: names of the classes, in label order.
    """
    groups, reported = set(), set()
    for shortcut in sorted(shortcuts, key=lambda s: -s.accuracy):
        if shortcut.group in COMBINED or _IMPLIED_BY.get(shortcut.name) in reported:
            continue
        if finding := _trait_finding(shortcut, classes):
            groups.add(shortcut.group)
            reported.add(shortcut.name)
            yield finding
    if groups & {*_IN_PIXELS, "metadata"}:
        return
    for shortcut in shortcuts:
        if shortcut.group == "combined_file" and _is_reported(shortcut):
            is_severe = shortcut.significantly_above(_UNRELIABLE_ACCURACY)
            text = f"Format, size and metadata combined predict the label {_accuracy(shortcut)}."
            yield Finding(UNRELIABLE if is_severe else CAUTION, "format", text, "formats")


def _trait_finding(shortcut: Shortcut, classes: tuple[str, ...]) -> Finding | None:
    """Return the finding about a single trait; None if it does not predict the label."""
    subject, value = capitalized(shortcut.name), describe_value(shortcut, classes)
    if _is_reported(shortcut):
        text = f"{subject} alone predicts the label {_accuracy(shortcut)}"
        text += f": {value}." if value else "."
    elif value and shortcut.group != "name":
        text = f"{subject} predicts the label of some images: {value}."
    else:
        return None
    in_pixels, level = shortcut.group in _IN_PIXELS, CAUTION
    if shortcut.name in _NOTE_TRAITS or shortcut.group in _NOTE_GROUPS:
        level = NOTE
    elif in_pixels and shortcut.significantly_above(_UNRELIABLE_ACCURACY):
        level = UNRELIABLE
    advice = _ADVICE_BY_NAME.get(shortcut.name) or _ADVICE.get(shortcut.group, "")
    return Finding(level, shortcut.group, text, "formats" if in_pixels else None, advice=advice)


def _is_reported(shortcut: Shortcut) -> bool:
    """Return whether a shortcut predicts the label better than its group may."""
    return shortcut.significantly_above(_MIN_ACCURACY[shortcut.group])


def _accuracy(shortcut: Shortcut) -> str:
    return f"with a balanced accuracy of {shortcut.accuracy:.1%} (chance: {shortcut.chance:.0%})"


def describe_value(shortcut: Shortcut, classes: tuple[str, ...]) -> str:
    """Return the most predictive value of a shortcut and how frequent it is in each class.

    It is "" if no value occurs almost only in one class.
    """
    if shortcut.value is None:
        return ""
    fractions = ", ".join(
        f"{fraction:.1%} of {name}" for name, fraction in zip(classes, shortcut.value.fractions)
    )
    text = shortcut.value.text
    words = {"true": "present", "false": "absent"}.get(text, f"value {text}")
    return f"{words} in {fractions}"


def generator_findings(shortcuts: dict[str, Shortcut]) -> Iterator[Finding]:
    """Yield a finding if generators' fakes differ from authentic images in format or size.

    Args:
        shortcuts: the shortcuts from `generator_shortcuts`.
    """
    leaking = {
        name: s
        for name, s in shortcuts.items()
        if s.significantly_above(_MIN_ACCURACY["generator"])
    }
    if not leaking or len(shortcuts) == 1:  # a single generator is covered by the traits
        return
    unreliable = any(s.significantly_above(_UNRELIABLE_ACCURACY) for s in leaking.values())
    names = ", ".join(f"{name} {s.accuracy:.0%}" for name, s in leaking.items())
    yield Finding(
        UNRELIABLE if unreliable else CAUTION, "format",
        f"Format and size separate the fakes of {len(leaking)} of {len(shortcuts)} generators "
        f"from authentic images (balanced accuracy: {names}).", "formats",
    )  # fmt: skip


def duplicate_findings(
    kind: Literal["exact", "near"], found: Duplicates, table: pa.Table, classes: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield findings about images that occur more than once.

    Args:
        kind: which duplicates these are.
        found: the duplicates.
        table: rows of the catalog.
        classes: names of the classes, in label order.
    """
    if found.uncompared:
        yield Finding(
            CAUTION, "duplicates",
            f"{counted(found.uncompared, 'pair')} of similar images "
            "could not be compared, because an image could not be read a second time or ended the "
            "process that read it. They may be near duplicates.",
        )  # fmt: skip
    if found.groups:
        prefix = "" if found.complete else "At least "
        if found.label_conflicts:
            yield _conflict_finding(kind, found.label_conflicts, table.num_rows, prefix)
        yield from _leak_findings(kind, found, table, classes, prefix)
        yield from _redundancy_findings(kind, found, table.num_rows, classes, prefix)


def _conflict_finding(kind: str, images: int, total: int, prefix: str) -> Finding:
    """Return the finding about duplicates with another label."""
    if kind == "near":  # expected of edited images and their originals
        return Finding(
            NOTE, "duplicates",
            f"{prefix}{counted(images, 'image')} have near duplicates with another label, such as "
            "an edited image and its original.",
        )  # fmt: skip
    return Finding(
        UNRELIABLE if images > _UNRELIABLE_CONFLICTS * total else CAUTION, "duplicates",
        f"{prefix}{counted(images, 'image')} have exact duplicates with another label, so that "
        "their labels contradict each other.", "duplicates", contradiction=True,
    )  # fmt: skip


def _leak_findings(
    kind: str, found: Duplicates, table: pa.Table, classes: tuple[str, ...], prefix: str
) -> Iterator[Finding]:
    """Yield findings about test and validation images with duplicates in earlier splits."""
    counts = pc.value_counts(table["split"].cast(pa.string())).to_pylist()
    sizes = {row["values"]: row["counts"] for row in counts}
    if leaks := sum(found.test_leaks):
        fraction = leaks / sizes["test"]
        yield Finding(
            UNRELIABLE if fraction > 0.05 else CAUTION, "duplicates",
            f"{prefix}{leaks:,} of {sizes['test']:,} test images ({fraction:.1%}) have {kind} "
            f"duplicates in train or validation ({_by_class(found.test_leaks, classes)}).",
            "duplicates",
        )  # fmt: skip
    if leaks := found.validation_leaks:
        fraction = leaks / sizes["validation"]
        yield Finding(
            CAUTION if fraction > 0.01 else NOTE, "duplicates",
            f"{prefix}{leaks:,} of {sizes['validation']:,} validation images ({fraction:.1%}) have "
            f"{kind} duplicates in train.", "splits" if kind == "near" else "duplicates",
        )  # fmt: skip


def _redundancy_findings(
    kind: str, found: Duplicates, total: int, classes: tuple[str, ...], prefix: str
) -> Iterator[Finding]:
    """Yield findings about duplicates of images of the same class and splits."""
    for where, counts in (
        ("train and validation", found.redundant),
        ("test", found.redundant_test),
    ):
        if images := sum(counts):
            yield Finding(
                CAUTION if images / total > 0.02 else NOTE, "duplicates",
                f"{prefix}{counted(images, 'redundant image')} in {where}: {kind} duplicates of "
                f"other images of their class ({_by_class(counts, classes)}).", "duplicates",
            )  # fmt: skip


def _by_class(counts: tuple[int, ...], classes: tuple[str, ...]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in zip(classes, counts) if count)


def group_findings(table: pa.Table) -> Iterator[Finding]:
    """Yield findings about groups, such as videos, that are in several splits or too few."""
    if table["group"].equals(table["hash"]):
        return  # no groups are named; equal contents are duplicates
    codes = table["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    if groups_by_class(codes, table["label"].to_numpy()).min() < 2:
        yield Finding(
            CAUTION, "groups",
            "All images of a class belong to one group, so shortcuts cannot be measured. "
            "Measuring them takes two groups of each class, one to learn from and one to test on.",
        )  # fmt: skip
    pairs = table.group_by(["group", "dataset", "split"]).aggregate([([], "count_all")])
    splits = pairs["split"].cast(pa.string()).to_pylist()
    few = {split: splits.count(split) for split in ("validation", "test")}
    few = {split: count for split, count in few.items() if 0 < count < _MIN_GROUPS}
    if few:
        counts = " and ".join(f"{split} has {count}" for split, count in few.items())
        yield Finding(
            CAUTION, "groups",
            f"Metrics on few groups are uncertain, however many images there are: {counts} of "
            f"{len(set(zip(pairs['group'].to_pylist(), pairs['dataset'].to_pylist()))):,} groups.",
        )  # fmt: skip
    groups = pairs.group_by(["group", "dataset"]).aggregate([([], "count_all")])
    several = int(pc.sum(pc.greater(groups["count_all"], 1)).as_py() or 0)
    if several:
        fraction = several / groups.num_rows
        yield Finding(
            UNRELIABLE if fraction > 0.05 else CAUTION, "groups",
            f"{several:,} of {counted(groups.num_rows, 'group')} ({fraction:.1%}) "
            f"{'occurs' if several == 1 else 'occur'} in several splits.",
            "splits",
        )  # fmt: skip


def balance_findings(table: pa.Table, classes: tuple[str, ...]) -> Iterator[Finding]:
    """Yield findings about small splits, rare classes and generators, and datasets of one class."""
    labels = table["label"].to_numpy()
    for label, name in enumerate(classes):
        if not (labels == label).any():
            yield Finding(UNRELIABLE, "balance", f"Class {name} has no readable image.")
    yield from _split_findings(table, classes)
    datasets = table["dataset"].cast(pa.string())
    names = pc.unique(datasets).to_pylist()
    for name in names if len(names) > 1 else ():
        rows = pc.equal(datasets, name).to_numpy(zero_copy_only=False)
        counts = np.bincount(labels[rows], minlength=len(classes))
        if absent := _absent(counts, classes):
            yield Finding(
                CAUTION, "balance",
                f"Dataset {name} has no {absent} images, so that an image's source predicts its "
                "label.",
            )  # fmt: skip
    generators = pc.drop_null(table.filter(pc.greater(table["label"], 0))["generator"])
    fakes = {r["values"]: r["counts"] for r in pc.value_counts(generators).to_pylist()}
    rare = [name for name, count in fakes.items() if count * 20 < max(fakes.values())]
    if rare:
        yield Finding(
            NOTE, "balance",
            f"Few fakes are by {', '.join(sorted(rare))}: each made less than a twentieth as many "
            "as the most frequent generator.",
        )  # fmt: skip


def _split_findings(table: pa.Table, classes: tuple[str, ...]) -> Iterator[Finding]:
    """Yield findings about splits that are small or unbalanced."""
    labels = table["label"].to_numpy()
    splits = split_numbers(table)
    fewest = np.bincount(labels[splits == TRAIN], minlength=len(classes)).min()
    fix = "balance" if fewest >= _MIN_BALANCED else None
    for number, split in enumerate(SPLITS):
        counts = np.bincount(labels[splits == number], minlength=len(classes))
        few = few_images(split, int(counts[0]), int(counts[1:].sum()))
        if few := few or few_of_a_class(split, dict(zip(classes, counts.tolist()))):
            yield Finding(CAUTION, "balance", f"Split {split} has {few}")
        if not counts.sum() or counts.min() * 5 >= counts.max():
            continue
        text = _by_class(tuple(map(int, counts)), classes)
        if absent := _absent(counts, classes):
            yield Finding(CAUTION, "balance", f"Split {split} has no {absent} images: {text}.")
            continue
        text, setting = f"Split {split} is unbalanced: {text}.", None
        if split == "train" and fewest and fix is None:
            setting = "data.balance=weight"
            text += (
                f" Balancing them by leaving images out would keep only {fewest:,} of each class: "
                f"weight the classes instead ({setting})."
            )
        yield Finding(NOTE if split == "train" else CAUTION, "balance", text, fix, setting)


def _absent(counts: np.ndarray, classes: tuple[str, ...]) -> str:
    """Return the names of the classes that have no images."""
    return ", ".join(name for name, count in zip(classes, counts) if not count)


def file_findings(spec: DatasetSpec, catalog: Catalog) -> Iterator[Finding]:
    """Yield findings about files that cannot be used."""
    bad = catalog.skipped.num_rows
    if bad:
        total = bad + catalog.table.num_rows
        fraction = bad / total
        stops = (
            f"Commands that train or measure stop above {spec.max_unreadable_fraction:.0%} "
            "(max_unreadable_fraction in a dataset spec). "
        )
        first = catalog.skipped.slice(0, 1).to_pylist()[0]
        yield Finding(
            CAUTION if fraction > 0.01 else NOTE, "files",
            f"{counted(bad, 'file')} ({fraction:.1%}) cannot be used; the first is "
            f"{first['path']}: {first['error']}",
            advice=(stops if too_many_unusable(spec, bad, total) else "")
            + "skipped.csv, in the folder of the report, lists them: replace or remove them.",
        )  # fmt: skip
    mask_remarks = {f"{name}: {text}." for name, m in catalog.masks.items() for text in m.remarks}
    for warning in catalog.warnings:
        if warning not in mask_remarks:
            yield Finding(NOTE, "files", warning)


def mask_findings(catalog: Catalog) -> Iterator[Finding]:
    """Yield findings about masks: unclear codings, problems and notes."""
    for name, masks in catalog.masks.items():
        kinds = ((UNRELIABLE, masks.questions), (CAUTION, masks.problems), (NOTE, masks.notes))
        for level, texts in kinds:
            for text in texts:
                yield Finding(level, "masks", f"Masks of {name}: {text}.")
