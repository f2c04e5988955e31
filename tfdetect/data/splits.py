"""Splits a dataset by group through a stable hash, so that no group is in two splits."""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.errors import UserError
from tfdetect.core.spec import SPLITS, DatasetSpec

TRAIN = SPLITS.index("train")
MIN_IMAGES = 20  # of each class: with fewer, a split says little, and nothing is calibrated on it
_FEW = {
    "train": "a detector learns little from them",
    "validation": "the best epoch, the threshold and the calibration rest on them",
}


def few_images(split: str, authentic: int, fakes: int) -> str:
    """Return "only N images ..." where a split is too small to rely on; else "".

    Args:
        split: "train", "validation", "test" or "all".
        authentic: number of its authentic images, 0 or more.
        fakes: number of its fakes.
    """
    present = [count for count in (authentic, fakes) if count]
    if not present or min(present) >= MIN_IMAGES:
        return ""
    total = authentic + fakes
    why = _FEW.get(split, "intervals are wide, and recall at few false positives means little")
    return (
        f"only {total:,} image{'' if total == 1 else 's'} ({authentic:,} authentic, {fakes:,} "
        f"fake): {why}. Fewer than {MIN_IMAGES} of a class are enough to try the workflow, not to "
        "measure."
    )


def assign_splits(spec: DatasetSpec, files: pa.Table) -> pa.Table:
    """Add the columns group and split.

    The split is the one that the folder or the manifest names. If no file is in validation or
    test, groups of train are moved there.

    Args:
        spec: the dataset.
        files: columns group, hash and folder_split; the latter is dropped.

    Raises:
        UserError: A file names a split that the spec does not know.
    """
    groups = pc.coalesce(files["group"], files["hash"]).combine_chunks().dictionary_encode()
    codes, names = codes_of(groups), groups.dictionary
    grouped = files["group"].null_count < files.num_rows
    if grouped:
        first_names = _linked_groups(names.to_pylist(), spec.group_separator, codes, files["hash"])
        linked = pa.array(first_names).dictionary_encode()
        names, codes = linked.dictionary, codes_of(linked)[codes]
    texts = files["folder_split"].combine_chunks().dictionary_encode()
    known = {**spec.splits, **{split: split for split in spec.split_files}}
    meanings = {t: known.get(t, known.get(t.lower())) for t in texts.dictionary.to_pylist()}
    if unknown := [text for text, split in meanings.items() if split is None]:
        raise UserError(
            f"{spec.name}: unknown split {unknown[0]!r}. Known: {', '.join(spec.splits)}."
        )
    numbers = np.array([SPLITS.index(s) for s in (*meanings.values(), spec.default_split)], np.int8)
    given = numbers[codes_of(texts)]  # the last where the text is null
    test = 0.0 if meanings else spec.test_fraction
    validation = 0.0 if "validation" in meanings.values() else spec.validation_fraction
    fractions = np.fromiter((group_fraction(spec.name, name.as_py()) for name in names), float)
    # Groups without a file in train have nothing to give.
    fractions[np.bincount(codes[given == TRAIN], minlength=len(names)) == 0] = 2
    splits = np.where(given == TRAIN, carve(fractions, test, validation)[codes], given)
    files = files.drop_columns(["group", "folder_split"])
    group = pc.take(names, pa.array(codes)) if grouped else files["hash"]  # no second copy
    files = files.append_column("group", group)
    return files.append_column("split", pc.take(pa.array(SPLITS), pa.array(splits)))


def carve(fractions: np.ndarray, test: float, validation: float) -> np.ndarray:
    """Return the split of each group.

    Args:
        fractions: float [g], the number of each group from `group_fraction`, in [0, 1); groups
            of 1 and above stay in train.
        test: fraction of the groups that goes to test.
        validation: fraction of the groups that goes to validation.

    Returns:
        int8 [g], index into `SPLITS`. In a small dataset no group may fall into the range of a
        split; then the nearest ones fill it.
    """
    splits = np.full(len(fractions), TRAIN, np.int8)
    start = 0.0
    for split, wanted in (("test", test), ("validation", validation)):
        if not wanted:
            continue
        free = np.where((splits == TRAIN) & (fractions < 1), fractions, 2)
        chosen: np.ndarray = free < start + wanted
        if not chosen.any():
            count = max(1, round(wanted * len(fractions)))
            chosen = np.argsort(free)[:count]
        splits[chosen] = SPLITS.index(split)
        start += wanted
    return splits


def codes_of(column: pa.DictionaryArray) -> np.ndarray:
    """Return the indices into a column's dictionary, -1 where null."""
    return pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)


def _linked_groups(
    names: list[str], separator: str, codes: np.ndarray, hashes: pa.ChunkedArray
) -> list[str]:
    """Return the first name of each group's connected component.

    Groups that share a piece of their names, or a file of the same content, are connected.

    Args:
        names: names of the groups.
        separator: text between the pieces of a name; "" if names have no pieces.
        codes: int [n], the group of each file as an index into `names`.
        hashes: string [n], the content of each file.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    contents = hashes.combine_chunks().dictionary_encode()
    rows, columns = [codes], [codes_of(contents)]
    size = len(contents.dictionary)
    pieces: dict[str, int] = {}
    for group, name in enumerate(names):
        for piece in name.split(separator) if separator else ():
            rows.append(np.array([group]))
            columns.append(np.array([size + pieces.setdefault(piece, len(pieces))]))
    starts, ends = np.concatenate(rows), np.concatenate(columns) + len(names)
    size += len(pieces) + len(names)
    graph = coo_array((np.ones(len(starts), bool), (starts, ends)), (size, size))
    _, component = connected_components(graph, directed=False)
    first: dict[int, str] = {}
    for name, number in sorted(zip(names, component)):
        first.setdefault(number, name)
    return [first[number] for number in component[: len(names)]]


def group_fraction(dataset: str, group: str) -> float:
    """Return a number in [0, 1) that depends on the names of the dataset and the group alone."""
    digest = hashlib.blake2b(f"{dataset}\n{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def fold_numbers(groups: Iterable[str], folds: int, salt: str) -> np.ndarray:
    """Return the fold of each group by a hash of its name, int [n]; another salt, other folds."""
    return np.array([int(folds * group_fraction(salt, str(group))) for group in groups])
