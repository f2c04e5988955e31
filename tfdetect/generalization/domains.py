"""Divides a dataset into domains: by generator, by dataset of a union, or by path."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from tfdetect.core.errors import UserError
from tfdetect.core.patterns import PathSearch
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.generalization.study_results import domain_word

_MIN_FAKES = 5  # in train and in test, below which a domain is left out


@dataclass(frozen=True)
class Domains:
    """The domain of each image of a catalog.

    Attributes:
        names: names of the domains with enough fakes, sorted.
        row_names: name of each row's domain; None for images that belong to every domain.
        left_out: names of the domains with too few fakes.
    """

    names: tuple[str, ...]
    row_names: np.ndarray
    left_out: tuple[str, ...]

    def rows(self, chosen: frozenset[str]) -> np.ndarray:
        """Return whether each image belongs to one of the chosen domains, bool [n]."""
        return np.array([name is None or name in chosen for name in self.row_names])


def find_domains(catalog: Catalog, by: str, sources: bool = False) -> Domains:
    """Return the domains of a catalog.

    Args:
        catalog: the images.
        by: "generator" (authentic images without a generator belong to every domain), "dataset"
            (the datasets of a union), or a regular expression (RE2's) that is searched in paths;
            its first group, or the whole match without one, is the domain's name, and images
            without a match belong to every domain.
        sources: by generator, divide the sources of authentic images among the generators, so that
            a training that lacks a generator also lacks its sources. A source is what an authentic
            image names as its generator; images without one belong to every domain.

    Raises:
        UserError: sources that are not named, an invalid expression, fakes without a generator, or
            fewer than two domains.
    """
    table = catalog.table
    labels = table["label"].to_numpy()
    if sources and by != "generator":
        raise UserError("--leave-sources-out divides generators; leave out --by.")
    if by == "generator":
        found = _generators(catalog, labels)
    elif by == "dataset":
        found = np.array(table["dataset"].to_pylist(), object)
    else:
        found = _parts_of_paths(table, by)
    splits = np.array(table["split"].to_pylist())
    if not (splits == "test").any():
        raise UserError(
            f"Every detector is measured on test images, and {catalog.name} has no test "
            "split: its folders or its table name splits, and none of them is test. Put images "
            "into test/, or name no splits, so that all three are carved."
        )
    names: list[str] = []
    few: list[str] = []
    for name in sorted({str(n) for n in found if n is not None}, key=natural_order):
        fakes = (found == name) & (labels > 0)
        enough = min((fakes & (splits == split)).sum() for split in ("train", "test")) >= _MIN_FAKES
        (names if enough else few).append(name)
    if len(names) < 2:
        raise UserError(
            f"At least two {domain_word(by)}s are needed, each with {_MIN_FAKES} fakes in train "
            f"and in test. By {by!r}, {catalog.name} has {len(names)} (too few fakes: "
            f"{', '.join(few) or 'none'}). Its fakes have paths like {_example(table)}."
        )
    if sources:
        _divide_sources(found, catalog, labels, names)
    return Domains(tuple(names), found, tuple(few))


def _generators(catalog: Catalog, labels: np.ndarray) -> np.ndarray:
    """Return the generator of each image; None for authentic images of no fake's generator.

    Raises:
        UserError: fakes without a generator.
    """
    own = catalog.table["generator"].to_pylist()
    of_fakes = {name for name, label in zip(own, labels) if label and name}
    found = np.array([name if name in of_fakes else None for name in own], object)
    if orphans := int(((labels > 0) & (found == None)).sum()):  # noqa: E711
        raise UserError(
            f"{catalog.name}: {counted(orphans, 'fake')} without a known generator. Name the "
            "generators in the dataset's spec or manifest, or use --by REGEX."
        )
    return found


def _parts_of_paths(table: pa.Table, expression: str) -> np.ndarray:
    """Return what a regular expression finds in each path; None without a match.

    Raises:
        UserError: the expression is invalid.
    """
    try:
        names = PathSearch(expression).search(table["path"].to_pylist())
    except ValueError as error:
        raise UserError(f"--by {expression!r}: {error}") from error
    return np.array([name if name is None else name or "none" for name in names], object)


def _divide_sources(
    found: np.ndarray, catalog: Catalog, labels: np.ndarray, names: list[str]
) -> None:
    """Assign each source of authentic images to a generator, in turn; changes `found`.

    Raises:
        UserError: authentic images name fewer than two sources.
    """
    own = np.array(catalog.table["generator"].to_pylist(), object)
    open_ones = (labels == 0) & (found == None)  # noqa: E711
    sources = sorted({str(name) for name in own[open_ones] if name}, key=natural_order)
    if len(sources) < 2:
        raise UserError(
            f"--leave-sources-out: the authentic images of {catalog.name} name {len(sources)} "
            "sources. Name at least two in the column generator of the manifest, or in the "
            "dataset's spec."
        )
    for number, source in enumerate(sources):
        found[open_ones & (own == source)] = names[number % len(names)]


def natural_order(name: str) -> list:
    """Return a sort key that orders 2 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def restrict(catalog: Catalog, domains: Domains, chosen: frozenset[str]) -> Catalog:
    """Return the catalog with train and validation images of some domains only."""
    learned = np.array(catalog.table["split"].to_pylist()) != "test"
    keep = domains.rows(chosen) | ~learned
    return replace(catalog, table=catalog.table.filter(pa.array(keep)))


def _example(table: pa.Table) -> str:
    """Return the path of a fake, as --by sees it."""
    rows = np.flatnonzero(table["label"].to_numpy() > 0)[:1].tolist()
    return repr(table["path"][rows[0]].as_py()) if rows else "none"
