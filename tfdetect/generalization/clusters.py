"""Which generators belong together: who finds whose images, in the order of their clusters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_json
from tfdetect.core.html import picture_of
from tfdetect.core.parsing import read_object
from tfdetect.evaluation.figures import heat_map
from tfdetect.generalization.published_tables import Table, read_published
from tfdetect.generalization.study_results import Cells, ClusterResult

MIN_GENERATORS = 3  # fewer have no order
_MIN_WITNESSES = 3  # detectors of other generators, below which a correlation says nothing


@dataclass(frozen=True)
class Clusters:
    """How alike generators are to detectors.

    Attributes:
        names: the names of the generators, in the order of the clusters.
        mutual: float [n, n], how well detectors of one find images of the other, mean of both
            directions: 0 is chance, 1 is every image. It makes the clusters.
        correlation: float [n, n], Pearson's correlation of how well the detectors of all other
            generators find the images of both; nan with fewer than 3 others, or where nothing
            varies.
        tree: the linkage of `scipy.cluster.hierarchy`, of the generators in this order.
    """

    names: tuple[str, ...]
    mutual: np.ndarray
    correlation: np.ndarray
    tree: np.ndarray

    def as_data(self) -> ClusterResult:
        """Return the clusters as JSON has them."""
        numbers = [[None if np.isnan(v) else round(float(v), 6) for v in row]
                   for row in self.correlation]  # fmt: skip
        return {"order": list(self.names), "mutual": np.round(self.mutual, 6).tolist(),
                "correlation": numbers}  # fmt: skip


def find_clusters(table: Table) -> Clusters:
    """Cluster the generators of a matrix, by average linkage.

    Args:
        table: {trained on: {tested on: value}}, each value from 0 to 1 with 0.5 for chance, such
            as accuracy or AUC.

    Raises:
        UserError: fewer than 3 generators were trained on alone and tested on.
    """
    names = _trained_alone(table)
    if len(names) < MIN_GENERATORS:
        raise UserError(
            f"Clusters need at least {MIN_GENERATORS} generators that a detector was trained on "
            f"alone and that all were tested on; this matrix has {len(names)}. It is not for "
            "--leave-one-out."
        )
    cells = np.array([[table[a][b] for b in names] for a in names], float)
    found = np.clip(2 * cells - 1, 0, 1)
    mutual = (found + found.T) / 2
    np.fill_diagonal(mutual, 1)
    tree = hierarchy.linkage(squareform(1 - mutual, checks=False), "average", optimal_ordering=True)
    order = hierarchy.leaves_list(tree)
    mutual, cells = mutual[np.ix_(order, order)], cells[np.ix_(order, order)]
    leaves = tree[:, :2] < len(names)  # they are numbered anew, in their order in the tree
    tree[:, :2][leaves] = np.argsort(order)[tree[:, :2][leaves].astype(int)]
    return Clusters(tuple(names[i] for i in order), mutual, _correlation(cells), tree)


def read_matrix(source: str) -> tuple[str, Table]:
    """Return the name of a matrix and its cells, from 0 to 1.

    Args:
        source: the folder or the matrix.json of `tfdetect matrix`, whose AUC is taken; or a
            published table of accuracies, as `read_published` takes it.

    Raises:
        UserError: there is none, or a cell has no value.
    """
    path = Path(source)
    path = path / "matrix.json" if path.is_dir() else path
    if path.suffix != ".json":
        name, table = read_published(source)
        return f"accuracy, {name}", {
            row: {column: value / 100 for column, value in cells.items()}
            for row, cells in table.items()
        }
    document = read_object(path)
    if "cells" not in document:
        raise UserError(f"{path} is no matrix of 'tfdetect matrix'.")
    return f"AUC, {path.parent.name or path.stem}", _aucs(document["cells"])


def clusters_of(cells: Cells) -> Clusters | None:
    """Return the clusters of a matrix by AUC; None if they are not defined."""
    table = _aucs(cells)
    return find_clusters(table) if len(_trained_alone(table)) >= MIN_GENERATORS else None


def _trained_alone(table: Table) -> list[str]:
    """Return the generators that a detector was trained on alone and that all were tested on."""
    return [name for name in table if all(name in row for row in table.values())]


def _aucs(cells: Cells) -> Table:
    """Return the AUC of each cell; those without one are left out."""
    return {
        row: {
            column: value for column, cell in own.items()
            if (value := cell["metrics"]["auc"]["value"]) is not None
        }
        for row, own in cells.items()
    }  # fmt: skip


def write_clusters(source: str, output: Path) -> ClusterResult:
    """Write clusters.png and clusters.json of a matrix into a folder.

    Args:
        source: as for `read_matrix`.
        output: the folder.
    """
    name, table = read_matrix(source)
    clusters = find_clusters(table)
    output.mkdir(parents=True, exist_ok=True)
    picture_of(draw(clusters), "", path=output / "clusters.png")
    found: ClusterResult = {"of": name, **clusters.as_data()}
    write_json(output / "clusters.json", found)
    return found


def format_clusters(found: ClusterResult) -> str:
    """Return what `write_clusters` found as tables for the terminal."""
    names = found["order"]
    tables: dict[str, Sequence[Sequence[float | None]]]
    tables = {"found by each other's detectors (0 chance, 1 all)": found["mutual"],
              "correlation over the detectors of all others": found["correlation"]}  # fmt: skip
    parts = [f"Generators in the order of their clusters ({found['of']})."]
    for title, values in tables.items():
        rows = [[name, *("-" if v is None else f"{v:.2f}" for v in row)]
                for name, row in zip(names, values)]  # fmt: skip
        parts.append(console.format_table(rows, ["", *names], title))
    return "\n\n".join(parts)


def draw(clusters: Clusters) -> Figure:
    """Draw the tree, who finds whose images, and the correlation, in the order of the clusters."""
    names, count = clusters.names, len(clusters.names)
    known = bool(np.isfinite(clusters.correlation[~np.eye(count, dtype=bool)]).any())
    side = 0.55 * count + 1.6
    figure = Figure(figsize=(1.6 + side * (1 + known), side + 0.2), layout="constrained")
    axes = figure.subplots(1, 2 + known, width_ratios=[1.3, *[side] * (1 + known)])
    hierarchy.dendrogram(
        clusters.tree, ax=axes[0], orientation="left", no_labels=True, color_threshold=0,
        above_threshold_color="#555555",
    )  # fmt: skip
    axes[0].invert_yaxis()  # the first generator is on top, as in the maps
    axes[0].axis("off")
    heat_map(axes[1], clusters.mutual, names, names, colors="Blues", size=8)
    axes[1].set_title("found by each other's detectors", fontsize=10)
    if known:
        heat_map(axes[2], clusters.correlation, names, names, limits=(-1, 1), size=8)
        axes[2].set_title("correlation over other detectors", fontsize=10)
        axes[2].set_yticks([])
    return figure


def _correlation(cells: np.ndarray) -> np.ndarray:
    """Return the correlation of each two columns over the rows of the others."""
    count = len(cells)
    found = np.full((count, count), np.nan)
    np.fill_diagonal(found, 1)
    for i in range(count):
        for j in range(i):
            others = np.delete(np.arange(count), [i, j])
            one, other = cells[others, i], cells[others, j]
            if len(others) >= _MIN_WITNESSES and one.std() > 0 and other.std() > 0:
                found[i, j] = found[j, i] = np.corrcoef(one, other)[0, 1]
    return found
