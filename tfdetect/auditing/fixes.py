"""Mends a dataset: a manifest of what stays, and where need be images encoded alike.

Formats are made alike after Grommelt et al., "Fake or JPEG?" (arXiv 2403.17608): images are cropped
and never resized, JPEGs below the common quality are left out, all are encoded with that quality.
"""

import io
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from tfdetect.auditing.audit_dataset import Audit
from tfdetect.auditing.findings import REPAIRS
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.spec import SPLITS, ClassSpec, DatasetSpec
from tfdetect.data.parallel import read_all
from tfdetect.data.splits import TRAIN, carve, group_fraction
from tfdetect.imaging.pillow import opened, upright_rgb

_QUALITY = 96  # where no class is JPEG
_KEPT = 0.9  # of each class's images are at least as large as the common size
_BLOCK = 8  # of JPEG: crops begin at a multiple, so that the grid of an image stays where it was


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    Attributes:
        folder: with dataset.yaml, manifest.csv and, where formats were changed, images.
        steps: one line a step.
    """

    folder: Path
    steps: tuple[str, ...]


def chosen_repairs(audit: Audit, wanted: str | None) -> list[str]:
    """The repairs named by the user, or those that the findings call for.

    Raises:
        UserError: an unknown one, or nothing to mend.
    """
    if wanted is None:
        called = {f.repair for f in audit.findings}
        repairs = [name for name in REPAIRS if name in called]
        if not repairs:
            raise UserError(f"Nothing was found in {audit.spec.name} that could be mended here.")
        return repairs
    names = [name.strip() for name in wanted.split(",")]
    if strange := [name for name in names if name not in REPAIRS]:
        raise UserError(f"--repairs: {strange[0]!r} is none of {', '.join(REPAIRS)}.")
    return [name for name in REPAIRS if name in names]


def repair(audit: Audit, folder: Path, repairs: list[str], progress: bool = True) -> Repaired:
    """Writes a mended copy of an audited dataset; the original stays as it is.

    Without "formats" the manifest names the original files, by relative paths.

    Args:
        folder: a new one.
        repairs: of `REPAIRS`.

    Raises:
        UserError: the folder is not empty, or nothing of a class would be left.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty. Name a new folder for the mended dataset.")
    table, steps = audit.traits, []
    readable = pc.is_valid(table["pixels"])
    table = table.append_column("index", pa.array(np.arange(table.num_rows)))
    table = table.append_column("crop", pa.nulls(table.num_rows, pa.int32())).filter(readable)
    if "duplicates" in repairs:
        table, text = _without_duplicates(audit, table)
        steps.append(text)
    if "splits" in repairs:
        table = _split_anew(audit, table)
        steps.append("split anew: test and validation are shares of groups")
    if "formats" in repairs:
        table, side, quality, text = _same_formats(table)
        steps.append(text)
    if "balance" in repairs:
        table, text = _balanced(table)
        steps.append(text)
    names = audit.spec.class_names
    left = np.bincount(table["label"].to_numpy(), minlength=len(names))
    if not left.all():
        gone = ", ".join(name for name, count in zip(names, left) if not count)
        raise UserError(f"Mending {audit.spec.name} would leave no image of {gone}: "
                        + "; ".join(steps))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    paths = audit.catalog.paths(table)
    masks = audit.catalog.paths(table, "mask")
    if "formats" in repairs:
        written, errors = _write_images(table, paths, masks, names, folder, side, quality, progress)
        table, paths, masks = table.filter(errors), written[0].filter(errors), written[1]
        masks = masks.filter(errors)
    else:
        paths, masks = (_relative(column, folder) for column in (paths, masks))
    manifest = pa.table({
        "path": paths,
        "label": pc.take(pa.array(names), table["label"]),
        "generator": table["generator"].cast(pa.string()),
        "mask": masks,
        "group": table["group"],
        "split": table["split"].cast(pa.string()),
    })  # fmt: skip
    pacsv.write_csv(manifest, folder / "manifest.csv")
    write_text(folder / "dataset.yaml", _spec(audit.spec, folder, repairs).to_yaml())
    steps.append(f"{manifest.num_rows:,} of {audit.traits.num_rows:,} images are left")
    return Repaired(folder, tuple(steps))


def _spec(spec: DatasetSpec, folder: Path, repairs: list[str]) -> DatasetSpec:
    return DatasetSpec(
        name=f"{spec.name.replace('+', '_')}_mended",
        title=f"{spec.title or spec.name}, mended: {', '.join(repairs)}",
        source=spec.source.model_copy(update={"kaggle": None, "builtin": None}),
        manifest="manifest.csv",
        classes=tuple(ClassSpec(name=n, folders=(n,)) for n in spec.class_names),
        splits={split: split for split in SPLITS},
        max_pixels=spec.max_pixels,
        experiment=spec.experiment,
    )


def _without_duplicates(audit: Audit, table: pa.Table) -> tuple[pa.Table, str]:
    """One image of each class of each set of duplicates; none of those equal under two labels.

    Where some are of the test split, all of the set that are not go.
    """
    dropped = np.zeros(audit.traits.num_rows, bool)
    labels = audit.traits["label"].to_numpy()
    tests = pc.equal(audit.traits["split"].cast(pa.string()), "test").to_numpy()
    for found in (audit.exact, audit.near):
        # Test images stay, so that figures on them can be compared.
        order = np.lexsort((found.rows, ~tests[found.rows], labels[found.rows], found.group))
        rows, group = found.rows[order], found.group[order]
        same = (group[1:] == group[:-1]) & (labels[rows[1:]] == labels[rows[:-1]])
        dropped[rows[1:][same]] = True
        tested = np.bincount(group, tests[rows], found.groups) > 0
        dropped[rows[tested[group] & ~tests[rows]]] = True
        if found is audit.exact:
            kinds = np.zeros((found.groups, len(audit.spec.class_names)), bool)
            kinds[group, labels[rows]] = True
            dropped[rows[(kinds.sum(1) > 1)[group]]] = True
    keep = ~dropped[table["index"].to_numpy()]
    return table.filter(pa.array(keep)), f"{int((~keep).sum()):,} duplicates left out"


def _split_anew(audit: Audit, table: pa.Table) -> pa.Table:
    """Splits by a stable hash of the group; near duplicates count as one group."""
    groups = table["group"].to_pylist()
    near = np.full(audit.traits.num_rows, -1)
    near[audit.near.rows] = audit.near.group
    first: dict[int, str] = {}
    for place, number in enumerate(near[table["index"].to_numpy()]):
        if number >= 0:
            groups[place] = first.setdefault(int(number), groups[place])
    names = sorted(set(groups))
    places = np.array([group_fraction(audit.spec.name, name) for name in names])
    split = dict(zip(names, carve(places, audit.spec.test_fraction, audit.spec.validation_fraction)))
    splits = pc.take(pa.array(SPLITS), pa.array([split.get(g, TRAIN) for g in groups], pa.int8()))
    for name, column in (("group", pa.array(groups)), ("split", splits)):
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _same_formats(table: pa.Table) -> tuple[pa.Table, int | None, int, str]:
    """Rows that stay, the common side (None where all sizes are equal already) and quality."""
    labels = table["label"].to_numpy()
    lossy = pc.equal(table["format"].cast(pa.string()), "JPEG").to_numpy(zero_copy_only=False)
    quality = pc.fill_null(table["quality"], 100).to_numpy()
    per_class = [np.median(quality[lossy & (labels == c)]) for c in np.unique(labels)
                 if (lossy & (labels == c)).mean() > 0.05]  # fmt: skip
    common = round(min(per_class)) if per_class else _QUALITY
    keep = ~lossy | (quality >= common)
    smaller = np.minimum(table["width"].to_numpy(), table["height"].to_numpy())
    sizes = {tuple(p) for p in zip(table["width"].to_pylist(), table["height"].to_pylist())}
    side = None
    if len(sizes) > 1:
        side = int(min(np.quantile(smaller[labels == c], 1 - _KEPT) for c in np.unique(labels)))
        side = max(1, side // _BLOCK * _BLOCK or side)
        keep &= smaller >= side
    text = f"{int((~keep).sum()):,} left out"
    text += f", the others cropped to {side}x{side} pixels and" if side else ", the others"
    text += f" encoded as JPEG of quality {common} without metadata"
    return table.filter(pa.array(keep)), side, common, text


def _balanced(table: pa.Table) -> tuple[pa.Table, str]:
    """As many images of each class in each split, drawn by a hash of their content."""
    labels = table["label"].to_numpy()
    splits = table["split"].cast(pa.string()).to_numpy()
    order = np.argsort([group_fraction("balance", h) for h in table["hash"].to_pylist()])
    keep = np.zeros(len(labels), bool)
    for split in SPLITS:
        rows = [order[(labels == c)[order] & (splits == split)[order]] for c in np.unique(labels)]
        fewest = min(map(len, rows))
        for each in rows:
            keep[each[: fewest or None]] = True
    return table.filter(pa.array(keep)), f"{int((~keep).sum()):,} left out for balance"


def _relative(paths: pa.ChunkedArray, folder: Path) -> pa.Array:
    start = folder.resolve()
    return pa.array(
        [p and os.path.relpath(os.path.realpath(p), start) for p in paths.to_pylist()], pa.string()
    )


def _write_images(
    table: pa.Table, paths: pa.ChunkedArray, masks: pa.ChunkedArray, names: tuple[str, ...],
    folder: Path, side: int | None, quality: int, progress: bool,
) -> tuple[tuple[pa.ChunkedArray, pa.ChunkedArray], pa.ChunkedArray]:  # fmt: skip
    """Writes every image and mask; gives their paths below the folder, and which came out."""
    items, targets = [], []
    labels = table["label"].to_pylist()
    # Numbered by content: names shall tell nothing.
    numbers = np.argsort(np.argsort(table["hash"].to_numpy(), kind="stable")).tolist()
    for kind, column in (("images", paths), ("masks", masks)):
        for number, label, path in zip(numbers, labels, column.to_pylist()):
            suffix = ".jpg" if kind == "images" else ".png"
            target = path and f"{kind}/{names[label]}/{number:07}{suffix}"
            targets.append(target)
            if path:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                items.append(f"{path}\n{folder / target}")
    schema = pa.schema([("target", pa.string()), ("ok", pa.bool_())])
    done = read_all(partial(_encode, side, quality), items, schema, "writing images", progress)
    ok = dict(zip(done["target"].to_pylist(), done["ok"].to_pylist()))
    count = len(labels)
    good = [all(t is None or ok[str(folder / t)] for t in targets[i::count]) for i in range(count)]
    columns = (pa.chunked_array([pa.array(t, pa.string())])
               for t in (targets[:count], targets[count:]))  # fmt: skip
    return tuple(columns), pa.chunked_array([pa.array(good)])


def _encode(side: int | None, quality: int, item: str) -> tuple[str, bool]:
    """Crops one image, or mask, in its center and writes it."""
    source, target = item.split("\n")
    try:
        with opened(source) as image:
            mask = target.endswith(".png")
            picture = upright_rgb(image)
        if side:
            left, top = ((length - side) // 2 // _BLOCK * _BLOCK for length in picture.size)
            picture = picture.crop((left, top, left + side, top + side))
        data = io.BytesIO()
        if mask:
            picture.convert("L").save(data, "PNG")
        else:
            picture.save(data, "JPEG", quality=quality)
        Path(target).write_bytes(data.getvalue())
        return target, True
    except Exception:  # it broke since the audit; Pillow's plugins raise many kinds
        return target, False
