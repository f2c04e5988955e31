"""Parts of a dataset to train on and to test on: generators, datasets of a union, or by name."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from tfdetect.core.errors import UserError
from tfdetect.data.catalog import Catalog

_FEWEST = 5  # fakes of a domain in train, or in test, below which it is left out


@dataclass(frozen=True)
class Domains:
    """Which domain each image of a catalog is of.

    Attributes:
        names: of the domains that have fakes to train on and to test on, sorted.
        of_rows: the name of each row's domain, None where it serves all of them.
        left_out: names of those with too few fakes.
    """

    names: tuple[str, ...]
    of_rows: np.ndarray
    left_out: tuple[str, ...]

    def rows(self, chosen: set[str]) -> np.ndarray:
        """Whether an image is of one of the chosen domains, or serves all, bool [n]."""
        return np.array([name is None or name in chosen for name in self.of_rows])


def find_domains(catalog: Catalog, by: str) -> Domains:
    """The domains of a catalog.

    Args:
        by: "generator" (authentic images filed with one are that one's, the others serve all),
            "dataset" (parts of a union), or a regular expression searched in paths, whose first
            group, or else the whole match, names the domain; images without a match serve all.

    Raises:
        UserError: a mistaken expression, or fewer than two domains.
    """
    table = catalog.table
    labels = table["label"].to_numpy()
    if by in ("generator", "dataset"):
        found = np.array(table[by].to_pylist(), object)
        if by == "generator":
            of_fakes = {name for name, label in zip(found, labels) if label and name}
            found = np.array([name if name in of_fakes else None for name in found], object)
            if orphans := int(((labels > 0) & (found == None)).sum()):  # noqa: E711
                raise UserError(f"{orphans:,} fakes of {catalog.name} have no known generator.")
    else:
        try:
            pattern = re.compile(by)
        except re.error as error:
            raise UserError(f"--by: {by!r} is no regular expression: {error}") from error
        found = np.array([_named(pattern, path) for path in table["path"].to_pylist()], object)
    splits = np.array(table["split"].to_pylist())
    names, few = [], []
    for name in sorted({str(n) for n in found if n is not None}, key=_by_number):
        fakes = (found == name) & (labels > 0)
        enough = min((fakes & (splits == split)).sum() for split in ("train", "test")) >= _FEWEST
        (names if enough else few).append(name)
    if len(names) < 2:
        raise UserError(
            f"{catalog.name} has {len(names)} parts by {by!r} with at least {_FEWEST} fakes in "
            f"train and in test; comparing takes two. Too few: {', '.join(few) or 'none'}."
        )
    return Domains(tuple(names), found, tuple(few))


def _named(pattern: re.Pattern, path: str) -> str | None:
    match = pattern.search(path)
    if match is None:
        return None
    return (match[1] if pattern.groups else match[0]) or "none"


def _by_number(name: str) -> list:
    """Orders 2 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def restrict(catalog: Catalog, domains: Domains, chosen: set[str]) -> Catalog:
    """The same catalog with the train and validation images of some domains alone."""
    learned = np.array(catalog.table["split"].to_pylist()) != "test"
    keep = domains.rows(chosen) | ~learned
    return replace(catalog, table=catalog.table.filter(pa.array(keep)))
