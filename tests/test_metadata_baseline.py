"""The baseline that sees format and size alone."""

import numpy as np
import pyarrow as pa

from tfdetect.evaluation.metadata_baseline import metadata_baseline
from tfdetect.evaluation.result_tables import tables_of

RNG = np.random.default_rng(0)


def rows(fake, width, kind, groups=None):
    count = len(fake)
    return pa.table({
        "label": np.asarray(fake, int), "width": width, "height": np.full(count, 300),
        "format": pa.array(kind).dictionary_encode(),
        "group": groups if groups is not None else [f"g{n}" for n in range(count)],
    })  # fmt: skip


def test_files_that_reveal_the_label_are_found_and_others_are_not():
    fake = np.arange(200) % 2 == 1
    same = metadata_baseline(rows(fake, RNG.integers(200, 900, 200), ["JPEG"] * 200))
    assert same["auc"]["low"] < 0.55 and same["count"] == 200
    kinds = np.where(fake, "PNG", "JPEG")
    told = metadata_baseline(rows(fake, RNG.integers(200, 900, 200), kinds))
    assert told["auc"]["value"] > 0.99 and told["balanced_accuracy"]["value"] > 0.99
    sizes = metadata_baseline(rows(fake, np.where(fake, 512, 640), ["JPEG"] * 200))
    assert sizes["auc"]["value"] > 0.99
    result = {"count": 200, "metrics": {"auc": told["auc"]}, "metadata_baseline": told}
    [table] = [t for t in tables_of(result) if t.title == "Format and size alone"]
    assert [row[0] for row in table.rows] == ["balanced accuracy", "AUC"]
    assert "-" in table.rows[0][2]


def test_groups_are_judged_by_trees_that_do_not_know_them():
    """Each group has its own size, and sizes say nothing beyond the group."""
    group = np.arange(200) // 10
    fake = group % 2 == 1
    width = 200 + 37 * ((group * 7) % 20)
    found = metadata_baseline(rows(fake, width, ["JPEG"] * 200, [f"g{n}" for n in group]))
    assert found["auc"]["low"] < 0.6


def test_too_few_images_give_no_baseline():
    fake = np.arange(100) < 5
    assert metadata_baseline(rows(fake, np.full(100, 300), ["JPEG"] * 100)) is None
