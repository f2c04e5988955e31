"""How well traits that should not matter tell the label: effect sizes and shallow trees."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.tree import DecisionTreeClassifier

from tfdetect.auditing.traits import TRAITS, Trait

DEPTH = 3
FOLDS = 5
ROWS = 30_000  # at most, for the trees: more says nothing more
_VALUES = 12  # of a category, that a tree knows apart
_FEWEST = 10  # images of a class, below which nothing is said


@dataclass(frozen=True)
class Value:
    """A value of a trait that stands almost only in one class.

    Attributes:
        shares: of each class's images that have it, in label order.
        label: the class that has it most.
        purity: the probability of that class where the value is seen, all classes equally likely.
    """

    text: str
    shares: tuple[float, ...]
    label: int
    purity: float


@dataclass(frozen=True)
class Shortcut:
    """How well one trait, or several together, tells the label.

    Attributes:
        effect: between 0 (none) and 1: Cramer's V of a category, |2 AUC - 1| of a number
            (of the strongest pair of classes); None of several columns together.
        accuracy: balanced, of a tree of depth 3, cross-validated.
        low: lower end of its 95% interval.
        chance: 1 / number of classes.
        value: the most telling one, if there is one.
    """

    name: str
    group: str
    effect: float | None
    accuracy: float
    low: float
    chance: float
    value: Value | None = None

    def above_chance(self, accuracy: float) -> bool:
        """Whether it surely beats that accuracy, or what corresponds to it with more classes."""
        share = (accuracy - 0.5) / 0.5
        return self.low > self.chance + share * (1 - self.chance)


def find_shortcuts(table: pa.Table, classes: int, seed: int = 0) -> list[Shortcut]:
    """Of every trait, of all that tell how files were made, and of all but names.

    Args:
        table: of `read_traits`, or of `read_headers`: traits without columns are left out.
        classes: number of them.
    """
    table = sample(table, ROWS, seed)
    labels = table["label"].to_numpy()
    if np.bincount(labels, minlength=classes).min() < _FEWEST:
        return []
    parts, found = folds(table, labels, seed), []
    known = set(table.column_names)
    features = {t: _features(table, t) for t in TRAITS if known.issuperset(t.columns)}
    for trait, matrix in features.items():
        if (matrix == matrix[0]).all():
            continue  # the same everywhere
        accuracy, low = _tree(matrix, labels, classes, parts)
        effect = _effect(table, trait, labels, classes) if len(trait.columns) == 1 else None
        value = telling_value(table, trait, labels, classes) if len(trait.columns) == 1 else None
        found.append(Shortcut(trait.name, trait.group, effect, accuracy, low, 1 / classes, value))
    for name, groups in (
        ("format, size and metadata together", ("format", "size", "metadata")),
        ("all but names together", ("format", "size", "metadata", "content")),
    ):
        chosen = [m for t, m in features.items() if t.group in groups]
        accuracy, low = _tree(np.concatenate(chosen, 1), labels, classes, parts)
        found.append(Shortcut(name, "together", None, accuracy, low, 1 / classes))
    return found


def generators_told(table: pa.Table, seed: int = 0) -> dict[str, Shortcut]:
    """How well format and size alone tell each generator's fakes from authentic images.

    From those filed with it, if there are any, else from those of the same datasets.
    """
    found, generators = {}, table["generator"].cast(pa.string())
    authentic = pc.equal(table["label"], 0)
    for name in sorted(filter(None, pc.unique(generators).to_pylist())):
        fakes = pc.and_(pc.fill_null(pc.equal(generators, name), False), pc.invert(authentic))
        own = pc.and_(pc.fill_null(pc.equal(generators, name), False), authentic)
        if not pc.any(own).as_py():
            datasets = pc.unique(table.filter(fakes)["dataset"].cast(pa.string()))
            own = pc.and_(authentic, pc.is_in(table["dataset"].cast(pa.string()), datasets))
        some = sample(table.filter(pc.or_(fakes, own)), ROWS // 3, seed)
        labels = (some["label"].to_numpy() > 0).astype(int)
        if np.bincount(labels, minlength=2).min() < _FEWEST:
            continue
        chosen = [_features(some, t) for t in TRAITS if t.group in ("format", "size")]
        parts = folds(some, labels, seed)
        accuracy, low = _tree(np.concatenate(chosen, 1), labels, 2, parts)
        found[name] = Shortcut(name, "generator", None, accuracy, low, 0.5)
    return found


def sample(table: pa.Table, count: int, seed: int) -> pa.Table:
    """At most that many rows, as many of each class as there are, drawn by the seed."""
    if table.num_rows <= count:
        return table
    labels = table["label"].to_numpy()
    rng, chosen = np.random.default_rng(seed), []
    present, counts = np.unique(labels, return_counts=True)
    left = count
    for place, index in enumerate(np.argsort(counts)):  # what a small class leaves, others take
        take = min(counts[index], left // (len(present) - place))
        rows = np.flatnonzero(labels == present[index])
        chosen.append(rng.choice(rows, take, replace=False))
        left -= take
    return table.take(pa.array(np.sort(np.concatenate(chosen))))


def folds(table: pa.Table, labels: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of each fold; rows of one group stay together."""
    groups = table["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    count = min(FOLDS, np.bincount(labels)[np.unique(labels)].min())
    if len(np.unique(groups)) == len(groups):  # many times as fast
        kfold = StratifiedKFold(count, shuffle=True, random_state=seed)
        return list(kfold.split(labels, labels))
    kfold = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    return list(kfold.split(labels, labels, groups))


def _features(table: pa.Table, trait: Trait) -> np.ndarray:
    """The trait's columns as numbers, float [n, f]; a category as its most frequent values."""
    matrices = []
    for name in trait.columns:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type):
            column = pc.fill_null(column, "none").dictionary_encode()
            codes = column.indices.to_numpy()
            common = np.argsort(-np.bincount(codes), kind="stable")[:_VALUES]
            matrices.append(codes[:, None] == common[None])
        else:
            numbers = pc.fill_null(column.cast(pa.float64(), safe=False), -1.0)
            matrices.append(numbers.to_numpy(zero_copy_only=False)[:, None])
    return np.concatenate(matrices, 1).astype(np.float32)


def _tree(matrix: np.ndarray, labels: np.ndarray, classes: int, parts) -> tuple[float, float]:
    """Balanced accuracy of a shallow tree on folds, and the lower end of its interval."""
    said = np.empty_like(labels)
    least = max(5, len(labels) // 500)
    for train, test in parts:
        tree = DecisionTreeClassifier(
            max_depth=DEPTH, min_samples_leaf=least, class_weight="balanced", random_state=0
        )
        said[test] = tree.fit(matrix[train], labels[train]).predict(matrix[test])
    recalls, counts = [], []
    for label in range(classes):
        mine = labels == label
        recalls.append((said[mine] == label).mean())
        counts.append(mine.sum())
    accuracy = float(np.mean(recalls))
    # Agresti and Coull's share, so that a recall of 1 of few images is not taken for certain.
    shares = (np.array(recalls) * counts + 2) / (np.array(counts) + 4)
    error = np.sqrt((shares * (1 - shares) / (np.array(counts) + 4)).sum()) / classes
    return accuracy, float(accuracy - 1.96 * error)


def _effect(table: pa.Table, trait: Trait, labels: np.ndarray, classes: int) -> float:
    column = table[trait.columns[0]].combine_chunks()
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        there = pc.is_valid(column).to_numpy(zero_copy_only=False)
        numbers = pc.drop_null(column).to_numpy()
        present = [numbers[labels[there] == label] for label in range(classes)]
        effects = [0.0]
        for i, a in enumerate(present):
            for b in present[i + 1 :]:
                if len(a) and len(b):
                    statistic = stats.mannwhitneyu(a, b).statistic
                    effects.append(abs(2 * statistic / (len(a) * len(b)) - 1))
        return float(max(effects))
    return cramers_v(_counts(column, labels, classes)[0])


def cramers_v(counts: np.ndarray) -> float:
    """Cramer's V with Bergsma's correction of its bias, of a table of counts [values, classes].

    Source: Bergsma, J. Korean Stat. Soc. 42 (2013).
    """
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    rows, columns = counts.shape
    total = counts.sum()
    if min(rows, columns) < 2 or total < 2:
        return 0.0
    phi2 = stats.chi2_contingency(counts, correction=False).statistic / total
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (total - 1))
    rows -= (rows - 1) ** 2 / (total - 1)
    columns -= (columns - 1) ** 2 / (total - 1)
    return float(min(1.0, np.sqrt(phi2 / (min(rows, columns) - 1))))


def telling_value(table: pa.Table, trait: Trait, labels: np.ndarray, classes: int) -> Value | None:
    """The most frequent value that surely stands at least four times as often in one class.

    A value must be that of ten images and of a twentieth of the class. None of a continuous trait.
    """
    column = table[trait.columns[0]].combine_chunks()
    if pa.types.is_floating(column.type) and trait.columns != ("quality",):
        return None
    counts, values = _counts(column, labels, classes)
    totals = np.maximum(1, np.bincount(labels, minlength=classes))
    best = None
    for text, row in zip(values, counts):
        shares = row / totals
        label = int(shares.argmax())
        rest = float(np.delete(shares, label).max())
        error = np.sqrt((shares * (1 - shares) / totals).sum())
        purity = float(shares[label] / max(shares.sum(), 1e-12))
        telling = row[label] >= 10 and shares[label] >= max(0.05, 4 * rest + 3 * error)
        if telling and (best is None or shares[label] > best.shares[best.label]):
            best = Value(str(text), tuple(map(float, shares)), label, purity)
    return best


def _counts(column: pa.Array, labels: np.ndarray, classes: int) -> tuple[np.ndarray, list]:
    """Counts [values, classes] and the values of a column."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    encoded = pc.fill_null(column.cast(pa.string()), "none").dictionary_encode()
    codes, values = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    flat = np.bincount(codes * classes + labels, minlength=len(values) * classes)
    return flat.reshape(-1, classes), values
