"""Audits a dataset: from its files to findings and a verdict."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tfdetect.auditing import findings, shortcuts
from tfdetect.auditing.duplicates import Duplicates, exact_duplicates, near_duplicates
from tfdetect.auditing.findings import Finding
from tfdetect.auditing.noise_spectra import mean_noise_spectra
from tfdetect.auditing.shortcuts import Shortcut
from tfdetect.auditing.traits import add_name_traits, read_headers, read_traits
from tfdetect.core.errors import UserError
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.catalog import Catalog

_QUICK_HEADERS = 2_000  # files whose headers the quick audit reads


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        spec: the dataset.
        catalog: its files.
        traits: one row per file; see `read_traits`.
        shortcuts: how well each trait predicts the label.
        generators: how well format and size separate each generator's fakes, by its name.
        exact: duplicates by decoded pixels.
        same_bytes: those among them that are equal byte for byte.
        near: near duplicates.
        spectra: noise spectra by generator; see `mean_noise_spectra`.
        findings: the most severe first.
    """

    spec: DatasetSpec
    catalog: Catalog
    traits: pa.Table
    shortcuts: list[Shortcut]
    generators: dict[str, Shortcut]
    exact: Duplicates
    same_bytes: Duplicates
    near: Duplicates
    spectra: dict[str, tuple[np.ndarray, int]]
    findings: list[Finding]

    def __repr__(self) -> str:
        found = counted(len(self.findings), "finding")
        images = counted(self.traits.num_rows, "image")
        return f"Audit({self.spec.name!r}, {self.verdict}, {found}, {images})"

    @property
    def level(self) -> str:
        """The most severe level of the findings."""
        return findings.worst_level(self.findings)

    @property
    def verdict(self) -> str:
        """ "sound", "caution" or "unreliable"."""
        return findings.VERDICTS[self.level]


def audit_dataset(spec: DatasetSpec, roots: dict[str, Path], progress: bool) -> Audit:
    """Audit a dataset.

    Args:
        spec: the dataset.
        roots: directory of the dataset, or of each part of a union, by name.
        progress: whether to show progress.

    Raises:
        UserError: no image can be read, or the dataset consists of prepared shards.
    """
    if any(each.shards for each in spec.datasets):
        raise UserError(
            f"{spec.name} consists of prepared shards, whose images may have been encoded again. "
            "Audit the original files instead."
        )
    catalog = build_catalog(spec.with_values(max_unreadable_fraction=1.0), roots, progress)
    if not catalog.table.num_rows:
        raise UserError(
            f"{spec.name}: of {counted(catalog.skipped.num_rows, 'image')} none can be read: "
            + "; ".join(f"{r['path']}: {r['error']}" for r in catalog.skipped.to_pylist()[:3])
        )
    traits, names = read_traits(catalog, progress), spec.class_names
    found = shortcuts.find_shortcuts(traits, len(names))
    generators = shortcuts.generator_shortcuts(traits)
    exact = exact_duplicates(traits, "pixels", len(names))
    same_bytes = exact_duplicates(traits, "hash", len(names))
    near = near_duplicates(catalog, traits, len(names), progress)
    ranked = _most_severe_first([
        *findings.shortcut_findings(found, names),
        *findings.generator_findings(generators),
        *findings.duplicate_findings("exact", exact, traits, names),
        *findings.duplicate_findings("near", near, traits, names),
        *findings.group_findings(traits),
        *findings.balance_findings(traits, names),
        *findings.file_findings(spec, catalog),
        *findings.mask_findings(catalog),
    ])  # fmt: skip
    return Audit(
        spec, catalog, traits, shortcuts=found, generators=generators, exact=exact,
        same_bytes=same_bytes, near=near, spectra=mean_noise_spectra(catalog, traits, names),
        findings=ranked,
    )  # fmt: skip


def quick_findings(spec: DatasetSpec, catalog: Catalog) -> list[Finding]:
    """Return what an audit finds without decoding images, the most severe first.

    It reads some headers, sizes, file hashes, groups and class counts, and takes about a second
    whatever the dataset's size.
    """
    table, names = catalog.table, spec.class_names
    some = shortcuts.stratified_sample(table, _QUICK_HEADERS)
    prepared = "shard" in table.column_names  # no files whose headers could be read
    traits = add_name_traits(some) if prepared else read_headers(catalog, some)
    same_bytes = exact_duplicates(table, "hash", len(names))
    return _most_severe_first([
        *findings.shortcut_findings(shortcuts.find_shortcuts(traits, len(names)), names),
        *findings.duplicate_findings("exact", same_bytes, table, names),
        *findings.group_findings(table),
        *findings.balance_findings(table, names),
    ])  # fmt: skip


def _most_severe_first(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda f: -findings.LEVELS.index(f.level))
