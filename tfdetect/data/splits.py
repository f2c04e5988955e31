"""Split a dataset by group through a stable hash, so that no group is in two splits."""

import hashlib
from collections.abc import Iterable, Mapping
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.columns import with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.spec import SPLITS, DatasetSpec
from tfdetect.core.text import counted

TRAIN, TEST = SPLITS.index("train"), SPLITS.index("test")
MIN_IMAGES = 20  # of each class: with fewer, a split says little, and nothing is calibrated on it
_MIN_GROUPS = 3  # of a class, from which each split gets one
_MOST = 1.5  # times its fraction, that a split has of a class
_FEW = {
    "train": "a detector learns little from them",
    "validation": "the best epoch, the threshold and the calibration rest on them",
}


class Carved(IntEnum):
    """The splits of a dataset that are carved here because the dataset does not name them."""

    NOTHING = 0
    VALIDATION = 1
    ALL = 2


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
    what = f"only {counted(total, 'image')} ({authentic:,} authentic, {fakes:,} fake)"
    return f"{what}: {_why_few(split)}"


def few_of_a_class(split: str, counts: Mapping[str, int]) -> str:
    """Return "only N images of the class ..." where a split has few of one of several; else "".

    Args:
        split: "train", "validation" or "test".
        counts: number of images by class; a class without any does not count as few.
    """
    few = [f"{counted(n, 'image')} of the class {name}" for name, n in counts.items()
           if 0 < n < MIN_IMAGES]  # fmt: skip
    return f"only {' and '.join(few)}: {_why_few(split)}" if few else ""


def _why_few(split: str) -> str:
    why = _FEW.get(split, "intervals are wide, and recall at few false positives means little")
    return (
        f"{why}. Fewer than {MIN_IMAGES} of a class are enough to try the workflow, not to measure."
    )


def split_numbers(table: pa.Table) -> np.ndarray:
    """Return the number in `SPLITS` of the split of each row of a catalog, int32 [n]."""
    return pc.index_in(table["split"].cast(pa.string()), pa.array(SPLITS)).to_numpy()


def assign_splits(spec: DatasetSpec, files: pa.Table) -> tuple[pa.Table, Carved]:
    """Add the columns group and split.

    The split is the one that the folder or the manifest names. If no file is in validation, or no
    file names a split, groups of train are moved to validation, or to validation and test.

    Args:
        spec: the dataset.
        files: columns label, group, hash and folder_split; the latter is dropped.

    Returns:
        The files, and what of their splits was carved.

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
    present = None
    if spec.split_rule > 1:
        present = classes_of(codes, files["label"].to_numpy(), len(names), len(spec.classes))
    splits = np.where(given == TRAIN, carve(fractions, test, validation, present)[codes], given)
    files = files.drop_columns(["group", "folder_split"])
    group = pc.take(names, pa.array(codes)) if grouped else files["hash"]  # no second copy
    files = files.append_column("group", group)
    files = files.append_column("split", pc.take(pa.array(SPLITS), pa.array(splits)))
    if "validation" in meanings.values():
        return files, Carved.NOTHING
    named = bool(meanings) or spec.default_split != "train"
    return files, Carved.VALIDATION if named else Carved.ALL


def classes_of(codes: np.ndarray, labels: np.ndarray, groups: int, classes: int) -> np.ndarray:
    """Return which classes each group has, bool [groups, classes].

    Args:
        codes: int [n], the group of each file.
        labels: int [n], the class of each file.
        groups: number of groups.
        classes: number of classes.
    """
    present = np.zeros((groups, classes), bool)
    present[codes, labels] = True
    return present


def carve(
    numbers: np.ndarray, test: float, validation: float, present: np.ndarray | None = None
) -> np.ndarray:
    """Return the split of each group.

    Groups are taken in the order of their numbers: those below `test` go to test, and those in the
    range after it to validation; a split that gets none this way takes the first that are left.

    With `present`, each split has enough of every class and not too much of any: of a class with
    three groups or more it takes the first ones, at least its fraction of them or, if that is
    fewer, `MIN_IMAGES`; and of no class more than half as many again as its fraction.

    Args:
        numbers: float [g], of each group from `group_fraction`, in [0, 1); groups of 1 and above
            stay in train.
        test: fraction of the groups that goes to test.
        validation: fraction of the groups that goes to validation.
        present: bool [g, c], the classes of each group; None does not look at classes.

    Returns:
        int8 [g], index into `SPLITS`.
    """
    splits = np.full(len(numbers), TRAIN, np.int8)
    end = 0.0
    for split, wanted in (("test", test), ("validation", validation)):
        if not wanted:
            continue
        end += wanted
        free = np.flatnonzero((splits == TRAIN) & (numbers < 1))
        order = free[np.argsort(numbers[free], kind="stable")]
        chosen = numbers[order] < end
        if present is not None:
            fewest, most = _bounds(present[numbers < 1].sum(0), wanted)
            rank = present[order].cumsum(0)  # of a group among those of each of its classes, from 1
            chosen &= ~(present[order] & (rank > most)).any(1)
            chosen |= (present[order] & (rank <= fewest)).any(1)
        if not chosen.any():
            chosen[: max(1, round(wanted * len(numbers)))] = True
        splits[order[chosen]] = SPLITS.index(split)
    return splits


def _bounds(totals: np.ndarray, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """Return how many groups of each class a split has at least and at most, float [c] each.

    Args:
        totals: int [c], number of groups of each class.
        wanted: fraction of the groups that the split is to have.
    """
    fewest = np.minimum(MIN_IMAGES, np.maximum(1, np.rint(wanted * totals)))
    most = np.maximum(1, np.rint(_MOST * wanted * totals))
    return np.where(totals < _MIN_GROUPS, 0, fewest), most


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
    contents = hashes.combine_chunks().dictionary_encode()
    nodes = len(names) + len(contents.dictionary)
    pieces: dict[str, int] = {}
    groups, shared = [codes], [codes_of(contents) + len(names)]
    for group, name in enumerate(names):
        for piece in name.split(separator) if separator else ():
            groups.append(np.array([group]))
            shared.append(np.array([pieces.setdefault(piece, nodes + len(pieces))]))
    component = connected(np.concatenate(groups), np.concatenate(shared), nodes + len(pieces))
    first: dict[int, str] = {}
    for name, number in sorted(zip(names, component)):
        first.setdefault(number, name)
    return [first[number] for number in component[: len(names)]]


def join_copies(table: pa.Table, carved: dict[str, Carved]) -> tuple[pa.Table, list[str]]:
    """Return a union with identical files of several datasets in one split.

    A group moves as a whole to the split of the groups of other datasets that hold copies of its
    files: of those whose split is not carved if there are any, else of the first dataset's.

    Args:
        table: columns dataset, group, hash and split; the datasets one after another.
        carved: by dataset, what of its splits is carved; see `assign_splits`.

    Returns:
        The table, and lines on how many files were moved, and how many have a copy in another
        split but must stay in theirs.
    """
    component, copied = components(table)
    if not copied.any():
        return table, []
    names = table["dataset"].cast(pa.string()).combine_chunks().dictionary_encode()
    splits = split_numbers(table).copy()
    rank = np.array([carved.get(name, Carved.NOTHING) for name in names.dictionary.to_pylist()])
    rank = rank[codes_of(names)]
    rank[(rank == Carved.VALIDATION) & (splits == TEST)] = Carved.NOTHING
    linked = np.flatnonzero(np.isin(component, component[copied]))
    # The sort is stable: of those that move least, the first dataset's first file decides.
    order = linked[np.argsort(rank[linked], kind="stable")]
    _, first, which = np.unique(component[order], return_index=True, return_inverse=True)
    wanted = splits[order][first][which.ravel()]
    differ = splits[order] != wanted
    rank = rank[order]
    may = (rank == Carved.ALL) | ((rank == Carved.VALIDATION) & (wanted != TEST))
    apart = int((differ & ~may & copied[order]).sum())
    moved = int((differ & may).sum())
    splits[order] = np.where(may, wanted, splits[order])
    table = with_columns(table, split=pc.take(pa.array(SPLITS), pa.array(splits)))
    lines = []
    if moved:
        lines.append(f"{counted(moved, 'image')} moved to the split of copies in another part")
    if apart:
        lines.append(
            f"{counted(apart, 'image')} with copies in another part and another split, which the "
            "parts themselves name: what was learned of one copy leaks to the other"
        )
    return table, lines


def components(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return which groups of a union belong together because they contain identical files.

    Args:
        table: columns dataset, group and hash.

    Returns:
        The number of each file's component of groups, int [n], and whether another dataset has a
        copy of the file, bool [n].
    """
    datasets, groups, contents = (
        codes_of(table[name].cast(pa.string()).combine_chunks().dictionary_encode())
        for name in ("dataset", "group", "hash")
    )
    _, nodes = np.unique(np.stack([datasets, groups]), axis=1, return_inverse=True)
    nodes = nodes.ravel()
    pairs = np.unique(np.stack([contents, datasets]), axis=1)
    copied = (np.bincount(pairs[0]) > 1)[contents]
    if not copied.any():
        return nodes, copied
    size = len(nodes) + int(contents.max()) + 1
    return connected(nodes[copied], contents[copied] + len(nodes), size)[nodes], copied


def connected(first: np.ndarray, second: np.ndarray, size: int) -> np.ndarray:
    """Return the number of each node's connected component, int [size].

    Args:
        first, second: int [edges], the nodes that an edge connects.
        size: number of nodes.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), bool), (first, second)), (size, size))
    return connected_components(graph, directed=False)[1]


def group_fraction(dataset: str, group: str) -> float:
    """Return a number in [0, 1) that depends only on the names of the dataset and the group."""
    digest = hashlib.blake2b(f"{dataset}\n{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def fold_numbers(groups: Iterable[str], folds: int, salt: str) -> np.ndarray:
    """Return the fold of each group by a hash of its name and the salt, int [n]."""
    return np.array([int(folds * group_fraction(salt, str(group))) for group in groups])
