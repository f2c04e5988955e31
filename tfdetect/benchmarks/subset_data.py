"""Finds the images of a suite's subsets, and says what of them is missing or differs."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.benchmarks.suite import Subset, Suite
from tfdetect.core import console
from tfdetect.core.columns import with_columns
from tfdetect.core.data_settings import Equalize
from tfdetect.core.errors import UserError
from tfdetect.core.load_spec import load_spec
from tfdetect.core.patterns import PathSearch
from tfdetect.core.spec import DatasetSpec
from tfdetect.core.text import counted
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.catalog import Catalog, shorter_sides
from tfdetect.data.locate import locate
from tfdetect.data.masks import check_masks
from tfdetect.imaging.equalize import BLOCK

_WHOLE = 2**16  # side of a crop that cuts nothing off; JPEG allows no longer one
_SMALLER = 0.05  # fraction of a class's images that may be smaller than the common crop


@dataclass(frozen=True)
class SubsetData:
    """The images of one subset.

    Attributes:
        subset: what it should be.
        catalog: the catalog that knows where the images are; None where they are missing.
        rows: the rows of the catalog, the images of the subset; no columns where they are missing.
        class_names: the classes of the dataset, the authentic one first.
        found: number of images by class name.
        unreadable: number of images that cannot be used.
        missing: why the subset cannot be scored; "" if it can.
        differences: what is not as the suite expects.
    """

    subset: Subset
    catalog: Catalog | None
    rows: pa.Table
    class_names: tuple[str, ...]
    found: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0
    missing: str = ""
    differences: tuple[str, ...] = ()


def read_subsets(
    suite: Suite,
    data_dir: Path | None,
    progress: bool,
    log: console.Log,
) -> list[SubsetData]:
    """Return the images of each subset of a suite.

    Files of other splits and subsets are not read.

    Args:
        suite: the suite with the subsets that are wanted.
        data_dir: the folder of the suite's dataset, or a folder that holds each dataset in a folder
            of its name; by default they are looked for where datasets are.
        progress: whether to show progress bars.
        log: called with each line about the data.

    Raises:
        UserError: no subset has an image; the message says where to get them.
    """
    found: dict[str, SubsetData] = {}
    for name in suite.datasets:
        subsets = [subset for subset in suite.subsets if (subset.dataset or suite.dataset) == name]
        spec, folders = load_spec(name, by_name=True)
        try:
            root = folders.get(spec.name) or locate(spec, _folder(suite, spec, data_dir))
            catalog = _catalog(suite, spec, subsets, root, progress)
            if suite.task == "masks":
                check_masks(catalog.masks)
        except UserError as error:
            missing = {s.name: _missing(s, spec, str(error)) for s in subsets}
            found |= missing
            continue
        for warning in catalog.warnings:
            console.warn(warning)
        found |= {s.name: _subset(suite, spec, s, catalog) for s in subsets}
    ordered = [found[subset.name] for subset in suite.subsets]
    if all(data.missing for data in ordered):
        raise UserError(
            f"No image of the suite {suite.name!r} was found. {ordered[0].missing} "
            f"The data: {suite.homepage}"
        )
    for data in ordered:
        log(f"  {data.subset.name}: {describe(data)}")
    return ordered


def describe(data: SubsetData) -> str:
    """Return in words what was found of a subset."""
    if data.missing:
        return f"missing: {data.missing}"
    text = " + ".join(f"{count:,} {name}" for name, count in data.found.items() if count)
    return "; ".join([text, *data.differences])


def equalizing(suite: Suite, rows: pa.Table) -> Equalize:
    """Return the crop and encoding that bring all images of a subset to one form.

    The crop is as large as 95% of the images of each class allow, on the grid of JPEG's blocks, and
    at most that of the suite. With masks nothing is cropped, as an altered region could be lost.
    """
    if suite.task == "masks":
        return suite.equalize.model_copy(update={"side": _WHOLE})
    labels = rows["label"].to_numpy() > 0
    sides = shorter_sides(rows)
    reach = min(
        int(np.quantile(sides[labels == kind], _SMALLER, method="lower"))
        for kind in (False, True) if (labels == kind).any()
    )  # fmt: skip
    side = min(suite.equalize.side, max(BLOCK, reach // BLOCK * BLOCK))
    return suite.equalize.model_copy(update={"side": side})


def equalized_rows(rows: pa.Table, settings: Equalize) -> pa.Table:
    """Return rows of a catalog with the size and format that images have after equalizing."""
    side = pa.scalar(settings.side, rows["width"].type)
    return with_columns(
        rows, width=pc.min_element_wise(rows["width"], side),
        height=pc.min_element_wise(rows["height"], side),
        format=pa.array(["JPEG"] * rows.num_rows),
    )  # fmt: skip


def _folder(suite: Suite, spec: DatasetSpec, data_dir: Path | None) -> Path | None:
    """Return where a dataset is looked for.

    The layouts of some datasets are so loose that they fit the files of others. So where a suite
    has several datasets, each is looked for in a folder of its own name.
    """
    if data_dir is None or len(suite.datasets) == 1:
        return data_dir
    return data_dir / spec.name


def _catalog(
    suite: Suite, spec: DatasetSpec, subsets: list[Subset], root: Path, progress: bool
) -> Catalog:
    """Return the catalog of the files that belong to one of the subsets."""
    testing = [text for text, split in spec.splits.items() if split == "test"]

    def keep(files: pa.Table) -> pa.Array:
        wanted = pa.array(np.zeros(files.num_rows, bool))
        for subset in subsets:
            wanted = pc.or_(wanted, _matches(subset, files))
        if suite.split == "test" and spec.splits:
            split = pc.fill_null(files["folder_split"].cast(pa.string()), "")
            wanted = pc.and_(wanted, pc.is_in(split, pa.array(testing, pa.string())))
        return wanted

    # A name of its own, so that the cache of the whole dataset is left alone; and the suite
    # itself compares the numbers of images.
    part = spec.model_copy(update={"name": f"{spec.name}_{suite.name}", "expected_counts": {}})
    return build_catalog(part, {part.name: root}, progress, keep)


def _matches(subset: Subset, files: pa.Table) -> pa.Array:
    if not subset.match:
        return pa.array(np.ones(files.num_rows, bool))
    found = PathSearch(subset.match).search(files["path"].to_pylist())
    return pa.array([text is not None for text in found], pa.bool_())


def _subset(suite: Suite, spec: DatasetSpec, subset: Subset, catalog: Catalog) -> SubsetData:
    rows = catalog.split(suite.split)
    rows = rows.filter(_matches(subset, rows))
    skipped = int(pc.sum(_matches(subset, catalog.skipped)).as_py() or 0)
    labels = rows["label"].to_numpy()
    found = {name: int((labels == i).sum()) for i, name in enumerate(spec.class_names)}
    if not rows.num_rows:
        return _missing(subset, spec, f"{catalog.roots[catalog.name]} has no image of it.")
    differences = [
        f"expected {count:,} {name} images, found {found.get(name, 0):,}"
        for name, count in subset.counts.items() if found.get(name, 0) != count
    ]  # fmt: skip
    if suite.task == "images":
        differences += [f"no {name} image" for name, count in found.items() if not count]
    else:
        masked = rows["mask"].is_valid().to_numpy(zero_copy_only=False)
        without = int(((labels > 0) & ~masked).sum())
        differences += [f"{counted(without, 'altered image')} without a mask"] if without else []
    differences += [f"{counted(skipped, 'image')} cannot be used"] if skipped else []
    return SubsetData(
        subset, catalog, rows, spec.class_names, found, skipped, differences=tuple(differences)
    )


def _missing(subset: Subset, spec: DatasetSpec, reason: str) -> SubsetData:
    return SubsetData(subset, None, pa.table({}), spec.class_names, missing=reason)
