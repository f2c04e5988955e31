"""Splits a dataset by group, through a stable hash, so that nothing leaks."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.errors import UserError
from tfdetect.core.spec import SPLITS, DatasetSpec

TRAIN = SPLITS.index("train")


def assign_splits(spec: DatasetSpec, files: pa.Table) -> pa.Table:
    """Adds group and split: from folder or manifest, or carved from train by group."""
    groups = pc.coalesce(files["group"], files["hash"]).combine_chunks().dictionary_encode()
    codes, names = codes_of(groups), groups.dictionary
    grouped = files["group"].null_count < files.num_rows
    if grouped:
        names = pa.array(_linked(names.to_pylist(), spec.group_separator, codes, files["hash"]))
        linked = names.dictionary_encode()
        names, codes = linked.dictionary, codes_of(linked)[codes]
    texts = files["folder_split"].combine_chunks().dictionary_encode()
    meant = {
        t: spec.splits.get(t, spec.splits.get(t.lower())) for t in texts.dictionary.to_pylist()
    }
    if strange := [text for text, split in meant.items() if split is None]:
        raise UserError(
            f"{spec.name}: the split {strange[0]!r} is none of {', '.join(spec.splits)}."
        )
    numbers = np.array([SPLITS.index(s) for s in (*meant.values(), "train")], np.int8)
    given = numbers[codes_of(texts)]  # the last where the text is null
    test = 0.0 if meant else spec.test_fraction
    validation = 0.0 if "validation" in meant.values() else spec.validation_fraction
    places = np.fromiter((group_fraction(spec.name, name.as_py()) for name in names), float)
    places[np.bincount(codes[given == TRAIN], minlength=len(names)) == 0] = 2  # nothing to carve
    splits = np.where(given == TRAIN, carve(places, test, validation)[codes], given)
    files = files.drop_columns(["group", "folder_split"])
    group = pc.take(names, pa.array(codes)) if grouped else files["hash"]  # no second copy
    files = files.append_column("group", group)
    return files.append_column("split", pc.take(pa.array(SPLITS), pa.array(splits)))


def carve(places: np.ndarray, test: float, validation: float) -> np.ndarray:
    """The split of each group as an index into `SPLITS`, by its place in [0, 1).

    In a small dataset no group may lie in a split's range; the nearest ones fill it then.
    """
    splits = np.full(len(places), TRAIN, np.int8)
    start = 0.0
    for split, share in (("test", test), ("validation", validation)):
        if not share:
            continue
        free = np.where((splits == TRAIN) & (places < 1), places, 2)
        chosen = free < start + share
        if not chosen.any():
            count = max(1, round(share * len(places)))
            chosen = np.argsort(free)[:count]
        splits[chosen] = SPLITS.index(split)
        start += share
    return splits


def codes_of(column: pa.DictionaryArray) -> np.ndarray:
    """Indices into a column's dictionary, -1 where null."""
    return pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)


def _linked(names: list[str], link: str, codes: np.ndarray, hashes: pa.ChunkedArray) -> list[str]:
    """The first name of each group's connected component.

    Groups that share a piece of their names, or a file of the same content, are connected.

    Args:
        names: of the groups.
        link: text between the pieces of a name; empty where names are whole.
        codes: the group of each file, int [n], as an index into `names`.
        hashes: the content of each file, string [n].
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    contents = hashes.combine_chunks().dictionary_encode()
    rows, columns = [codes], [codes_of(contents)]
    size = len(contents.dictionary)
    pieces: dict[str, int] = {}
    for group, name in enumerate(names):
        for piece in name.split(link) if link else ():
            rows.append([group])
            columns.append([size + pieces.setdefault(piece, len(pieces))])
    rows, columns = np.concatenate(rows), np.concatenate(columns) + len(names)
    size += len(pieces) + len(names)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), (size, size))
    _, component = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    for name, number in sorted(zip(names, component)):
        first.setdefault(number, name)
    return [first[number] for number in component[: len(names)]]


def group_fraction(name: str, group: str) -> float:
    """A stable number in [0, 1) for a group; adding files moves no old one."""
    digest = hashlib.blake2b(f"{name}\n{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
