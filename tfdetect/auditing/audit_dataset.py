"""The road from a dataset to a verdict on it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tfdetect.auditing import duplicates, findings, shortcuts
from tfdetect.auditing.duplicates import Duplicates
from tfdetect.auditing.findings import Finding
from tfdetect.auditing.noise_spectra import mean_spectra
from tfdetect.auditing.shortcuts import Shortcut
from tfdetect.auditing.traits import name_traits, read_headers, read_traits
from tfdetect.core.errors import UserError
from tfdetect.core.spec import DatasetSpec
from tfdetect.data.catalog import Catalog, build_catalog

_HEADERS = 2_000  # files whose headers the quick look reads


@dataclass(frozen=True)
class Audit:
    """Everything that an audit found.

    Attributes:
        traits: of every file; see `read_traits`.
        exact: duplicates by their decoded pixels.
        same_bytes: those that are equal byte for byte, among them.
        near: duplicates that only look alike.
        spectra: of noise, by generator; see `mean_spectra`.
        findings: the worst first.
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

    @property
    def verdict(self) -> str:
        return findings.VERDICTS[findings.verdict(self.findings)]


def audit(spec: DatasetSpec, roots: dict[str, Path], progress: bool = True) -> Audit:
    """Audits a dataset.

    Args:
        roots: folder of the dataset, or of each part of a union, by its name.

    Raises:
        UserError: no usable image of it is there, or it is prepared.
    """
    if spec.shards or any(part.spec.shards for part in spec.parts):
        raise UserError(
            f"{spec.name} is prepared: its images were read, and perhaps encoded, anew. Audit "
            "the files that it was made from."
        )
    catalog = build_catalog(tolerant(spec), roots, progress)
    if not catalog.table.num_rows:
        raise UserError(
            f"None of the {catalog.skipped.num_rows:,} images of {spec.name} can be read: "
            + "; ".join(f"{r['path']}: {r['error']}" for r in catalog.skipped.to_pylist()[:3])
        )
    traits, names = read_traits(catalog, progress), spec.class_names
    told = shortcuts.find_shortcuts(traits, len(names))
    generators = shortcuts.generators_told(traits)
    exact, same_bytes = (duplicates.by_column(traits, c, len(names)) for c in ("pixels", "hash"))
    near = duplicates.near(catalog, traits, len(names))
    found = [
        *findings.of_shortcuts(told, names),
        *findings.of_generators(generators),
        *findings.of_duplicates("exact", exact, traits, names),
        *findings.of_duplicates("near", near, traits, names),
        *findings.of_groups(traits),
        *findings.of_balance(traits, names),
        *findings.of_files(catalog),
    ]
    found = _sorted(found)
    spectra = mean_spectra(catalog, traits, names)
    return Audit(spec, catalog, traits, told, generators, exact, same_bytes, near, spectra, found)


def tolerant(spec: DatasetSpec) -> DatasetSpec:
    """The same spec, read however many of its files are broken."""
    parts = tuple(part.model_copy(update={"spec": tolerant(part.spec)}) for part in spec.parts)
    return spec.model_copy(update={"max_unreadable_fraction": 1.0, "parts": parts})


def quick_findings(spec: DatasetSpec, catalog: Catalog) -> list[Finding]:
    """What can be told without decoding images: some headers, sizes, equal files, groups, balance.

    Takes about a second, whatever the dataset's size.
    """
    table, names = catalog.table, spec.class_names
    some = shortcuts.sample(table, _HEADERS, seed=0)
    traits = name_traits(some) if "shard" in table.column_names else read_headers(catalog, some)
    same_bytes = duplicates.by_column(table, "hash", len(names))
    return _sorted([
        *findings.of_shortcuts(shortcuts.find_shortcuts(traits, len(names)), names),
        *findings.of_duplicates("exact", same_bytes, table, names),
        *findings.of_groups(table),
        *findings.of_balance(table, names),
    ])  # fmt: skip


def _sorted(found: list[Finding]) -> list[Finding]:
    """The worst first."""
    levels = list(findings.VERDICTS)
    return sorted(found, key=lambda f: -levels.index(f.level))
