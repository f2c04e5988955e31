"""Measures how well file and image traits predict the label: effect sizes and shallow trees."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.tree import DecisionTreeClassifier

from tfdetect.auditing.traits import TRAITS, Trait
from tfdetect.evaluation.intervals import mean_of_fractions, proportion

TREE_DEPTH = 3
FOLDS = 5
MAX_ROWS = 30_000  # that trees are trained on; more rows do not change the result
_MAX_CATEGORIES = 12  # that a tree distinguishes, the most frequent of a trait
_MIN_CLASS_IMAGES = 10  # with fewer images of a class, nothing is measured

# Combinations of traits: by group of the `Shortcut`, its name and the groups of traits in it.
COMBINED = {
    "combined_file": ("format, size and metadata together", ("format", "size", "metadata")),
    "combined_all": (
        "all traits but file names together", ("format", "size", "metadata", "content"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A value of a trait that occurs almost only in one class.

    Attributes:
        text: the value.
        fractions: fraction of each class's images that have it, in label order.
        label: the class in which it is most frequent.
        purity: probability of that class given the value, if all classes were equally frequent.
    """

    text: str
    fractions: tuple[float, ...]
    label: int
    purity: float


@dataclass(frozen=True)
class Shortcut:
    """How well one trait, or several combined, predicts the label.

    Attributes:
        name: the name of the trait, of a combination, or of an image generator.
        group: the trait's group, a key of `COMBINED`, or "generator".
        effect: effect size from 0 (none) to 1: Cramer's V of a category, |2 AUC - 1| of a number
            (for the most different pair of classes); None for several columns.
        accuracy: balanced accuracy of a tree of depth 3, cross-validated.
        low: lower end of its 95% interval.
        chance: 1 / number of classes.
        value: the most predictive value, if one occurs almost only in one class.
    """

    name: str
    group: str
    effect: float | None
    accuracy: float
    low: float
    chance: float
    value: Value | None = None

    def significantly_above(self, accuracy: float) -> bool:
        """Return whether the interval lies above a balanced accuracy.

        Args:
            accuracy: the accuracy for two classes, 0.5 to 1; converted for more classes.
        """
        skill = (accuracy - 0.5) / 0.5
        return self.low > self.chance + skill * (1 - self.chance)


def find_shortcuts(table: pa.Table, classes: int) -> list[Shortcut]:
    """Measure every trait and the combinations of `COMBINED`.

    Args:
        table: the table from `read_traits` or `read_headers`; traits without columns are skipped.
        classes: number of classes.

    Returns:
        One entry per trait that varies, and per combination; [] if a class has too few images or
        only one group.
    """
    table = stratified_sample(table, MAX_ROWS)
    labels = table["label"].to_numpy()
    if np.bincount(labels, minlength=classes).min() < _MIN_CLASS_IMAGES:
        return []
    folds, found = cross_validation_folds(table, labels), list[Shortcut]()
    if not folds:
        return []
    known = set(table.column_names)
    features = {t: _features(table, t) for t in TRAITS if known.issuperset(t.columns)}
    for trait, matrix in features.items():
        if (matrix == matrix[0]).all():
            continue
        accuracy, low = tree_accuracy(matrix, labels, classes, folds)
        effect = value = None
        if len(trait.columns) == 1:
            effect = _effect_size(table, trait, labels, classes)
            value = predictive_value(table, trait, labels, classes)
        found.append(Shortcut(trait.name, trait.group, effect, accuracy, low, 1 / classes, value))
    for group, (name, groups) in COMBINED.items():
        matrices = [matrix for trait, matrix in features.items() if trait.group in groups]
        accuracy, low = tree_accuracy(np.concatenate(matrices, 1), labels, classes, folds)
        found.append(Shortcut(name, group, None, accuracy, low, 1 / classes))
    return found


def generator_shortcuts(table: pa.Table) -> dict[str, Shortcut]:
    """Measure how well format and size separate each generator's fakes from authentic images.

    The authentic images are those listed with the generator, if there are any, otherwise those of
    the same datasets.

    Args:
        table: the table from `read_traits`.

    Returns:
        By name of the generator, without those with too few images or a class of only one group.
    """
    found, generators = {}, table["generator"].cast(pa.string())
    authentic = pc.equal(table["label"], 0)
    for name in sorted(filter(None, pc.unique(generators).to_pylist())):
        of_generator = pc.fill_null(pc.equal(generators, name), False)
        fakes = pc.and_(of_generator, pc.invert(authentic))
        reference = pc.and_(of_generator, authentic)
        if not pc.any(reference).as_py():
            datasets = pc.unique(table.filter(fakes)["dataset"].cast(pa.string()))
            reference = pc.and_(authentic, pc.is_in(table["dataset"].cast(pa.string()), datasets))
        rows = stratified_sample(table.filter(pc.or_(fakes, reference)), MAX_ROWS // 3)
        labels = (rows["label"].to_numpy() > 0).astype(int)
        if np.bincount(labels, minlength=2).min() < _MIN_CLASS_IMAGES:
            continue
        matrices = [_features(rows, t) for t in TRAITS if t.group in ("format", "size")]
        folds = cross_validation_folds(rows, labels)
        if not folds:
            continue
        accuracy, low = tree_accuracy(np.concatenate(matrices, 1), labels, 2, folds)
        found[name] = Shortcut(name, "generator", None, accuracy, low, 0.5)
    return found


def stratified_sample(table: pa.Table, count: int) -> pa.Table:
    """Draw at most `count` rows, equally many of each class if there are enough."""
    if table.num_rows <= count:
        return table
    labels = table["label"].to_numpy()
    rng, chosen = np.random.default_rng(0), []
    present, counts = np.unique(labels, return_counts=True)
    left = count
    for position, index in enumerate(np.argsort(counts)):  # small classes first
        take = min(counts[index], left // (len(present) - position))
        rows = np.flatnonzero(labels == present[index])
        chosen.append(rng.choice(rows, take, replace=False))
        left -= take
    return table.take(pa.array(np.sort(np.concatenate(chosen))))


def cross_validation_folds(
    table: pa.Table, labels: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return train and test rows of each fold; rows of one group are in the same fold.

    There are at most `FOLDS` folds, as many as the rarest class has groups; [] if a class has only
    one group.
    """
    groups = table["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    count = min(FOLDS, groups_by_class(groups, labels).min())
    if count < 2:
        return []
    if len(np.unique(groups)) == len(groups):  # many times faster
        kfold = StratifiedKFold(count, shuffle=True, random_state=0)
        return list(kfold.split(labels, labels))
    kfold = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    return list(kfold.split(labels, labels, groups))


def groups_by_class(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the number of groups of each class that occurs, int [c].

    Args:
        groups: int [n].
        labels: int [n].
    """
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    return np.unique(pairs[0], return_counts=True)[1]


def _features(table: pa.Table, trait: Trait) -> np.ndarray:
    """Return a trait as features, float32 [n, f]; categories are one-hot encoded."""
    matrices = []
    for name in trait.columns:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string())
        if pa.types.is_string(column.type):
            column = pc.fill_null(column, "none").dictionary_encode()
            codes = column.indices.to_numpy()
            common = np.argsort(-np.bincount(codes), kind="stable")[:_MAX_CATEGORIES]
            matrices.append(codes[:, None] == common[None])
        else:
            numbers = pc.fill_null(column.cast(pa.float64(), safe=False), -1.0)
            matrices.append(numbers.to_numpy(zero_copy_only=False)[:, None])
    return np.concatenate(matrices, 1).astype(np.float32)


def tree_accuracy(
    matrix: np.ndarray,
    labels: np.ndarray,
    classes: int,
    folds: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[float, float]:
    """Return a shallow tree's cross-validated balanced accuracy and its lower 95% bound.

    Args:
        matrix: features, float [n, f].
        labels: int [n].
        classes: number of classes.
        folds: train and test rows of each fold.
    """
    predicted = np.empty_like(labels)
    min_leaf = max(5, len(labels) // 500)
    for train, test in folds:
        tree = DecisionTreeClassifier(
            max_depth=TREE_DEPTH, min_samples_leaf=min_leaf, class_weight="balanced", random_state=0
        )
        predicted[test] = tree.fit(matrix[train], labels[train]).predict(matrix[test])
    mean = mean_of_fractions(
        [proportion(predicted[labels == label] == label) for label in range(classes)]
    )
    assert mean["value"] is not None and mean["low"] is not None  # classes have 10 images or more
    return mean["value"], mean["low"]


def _effect_size(table: pa.Table, trait: Trait, labels: np.ndarray, classes: int) -> float:
    """Return |2 AUC - 1| of the most different pair of classes, or Cramer's V of a category."""
    column = table[trait.columns[0]].combine_chunks()
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        valid = pc.is_valid(column).to_numpy(zero_copy_only=False)
        numbers = pc.drop_null(column).to_numpy()
        by_class = [numbers[labels[valid] == label] for label in range(classes)]
        effects = [
            abs(2 * stats.mannwhitneyu(one, other).statistic / (len(one) * len(other)) - 1)
            for one, other in combinations(filter(len, by_class), 2)
        ]
        return float(max(effects, default=0.0))
    return cramers_v(_contingency(column, labels, classes)[0])


def cramers_v(counts: np.ndarray) -> float:
    """Return Cramer's V with Bergsma's bias correction, 0 to 1.

    Source: Bergsma, J. Korean Stat. Soc. 42 (2013).

    Args:
        counts: contingency table, int [values, classes].
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


def predictive_value(
    table: pa.Table, trait: Trait, labels: np.ndarray, classes: int
) -> Value | None:
    """Return the most frequent value that is at least four times as frequent in one class.

    The value must occur in at least ten images and 5% of the class. Continuous traits have none.

    Args:
        table: the traits of n images.
        trait: one of them.
        labels: int [n], the classes of the images.
        classes: number of classes.
    """
    column = table[trait.columns[0]].combine_chunks()
    if pa.types.is_floating(column.type) and trait.columns != ("quality",):
        return None
    counts, values = _contingency(column, labels, classes)
    totals = np.maximum(1, np.bincount(labels, minlength=classes))
    best = None
    for text, row in zip(values, counts):
        fractions = row / totals
        label = int(fractions.argmax())
        rest = float(np.delete(fractions, label).max())
        error = np.sqrt((fractions * (1 - fractions) / totals).sum())
        purity = float(fractions[label] / max(fractions.sum(), 1e-12))
        predictive = row[label] >= 10 and fractions[label] >= max(0.05, 4 * rest + 3 * error)
        if predictive and (best is None or fractions[label] > best.fractions[best.label]):
            best = Value(str(text), tuple(map(float, fractions)), label, purity)
    return best


def _contingency(column: pa.Array, labels: np.ndarray, classes: int) -> tuple[np.ndarray, list]:
    """Return counts, int [values, classes], and the values of a column."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    encoded = pc.fill_null(column.cast(pa.string()), "none").dictionary_encode()
    codes, values = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    flat = np.bincount(codes * classes + labels, minlength=len(values) * classes)
    return flat.reshape(-1, classes), values
