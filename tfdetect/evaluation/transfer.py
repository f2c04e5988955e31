"""Measures what a training that started from a run gained on new data and forgot of the old."""

from collections.abc import Mapping

import keras
import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.run_results import PartTransfer, Transfer
from tfdetect.data.catalog import Catalog
from tfdetect.data.warm_start import Start
from tfdetect.evaluation import prediction_tables
from tfdetect.evaluation.evaluate_run import complete, predict_rows
from tfdetect.evaluation.paired import compare_tables, keys_of
from tfdetect.models.saving import load_detector

_BATCH = 64  # images
METRICS = ("accuracy", "balanced_accuracy", "auc")


def measure_transfer(
    run: Run,
    start: Start,
    catalog: Catalog,
    tables: Mapping[str, pa.Table],
    log: console.Log,
) -> Transfer:
    """Compare a run with the one that it started from, on images of both datasets.

    They are those of the test split, or of validation where a dataset has no test split.

    Args:
        run: the new run, calibrated.
        start: what it started from.
        catalog: the catalog that it was trained on; with a replay it contains the old dataset.
        tables: its predictions by split, from `evaluate_run.complete`.
        log: called with each line of progress.
    """
    parent, replay = start.run, run.info.lineage[0].replay
    log(f"comparing with {parent.name}, on the new and on the old data")
    before = load_detector(parent)
    old_names = set(run.info.lineage[0].datasets) if replay else set()

    def compare(kind: str, own: Catalog, names: set[str]) -> PartTransfer | None:
        split, rows = _rows(own, names)
        after = _known(tables.get(split), rows)
        if after is None:
            after = _predict(run, load_detector(run), own, rows)
        table = _known(_own_predictions(parent, split), rows) if kind == "old" else None
        if table is None:
            table = _predict(parent, before, own, rows)
        readable = {
            name: found.filter(pc.is_null(found["error"]))
            for name, found in (("after", after), ("before", table))
        }
        dataset = "+".join(sorted(names))
        try:
            found = compare_tables(readable, {"after": run, "before": parent}, METRICS)
        except UserError as error:  # images of one class
            console.warn(f"{dataset}: {error}")
            return None
        return {"dataset": dataset, "split": split, **found}

    new = compare("new", catalog, _names(catalog) - old_names)
    old = None if start.old is None else compare("old", start.old, _names(start.old))
    return {"parent": parent.name, "new": new, "old": old}


def _names(catalog: Catalog) -> set[str]:
    return set(catalog.table["dataset"].cast(pa.string()).unique().to_pylist())


def _rows(catalog: Catalog, names: set[str]) -> tuple[str, pa.Table]:
    """Return the test images of some datasets, or those of validation where there are none."""
    for split in ("test", "validation"):
        rows = catalog.split(split)
        chosen = pc.is_in(rows["dataset"].cast(pa.string()), pa.array(sorted(names)))
        if (rows := rows.filter(chosen)).num_rows:
            break
    return split, rows


def _known(table: pa.Table | None, rows: pa.Table) -> pa.Table | None:
    """Return the predictions of rows of a catalog out of a table; None if it lacks any."""
    if table is None:
        return None
    names = [t["dataset"].cast(pa.string()).to_pylist() for t in (rows, table)]
    wanted, keys = set(zip(names[0], keys_of(rows))), list(zip(names[1], keys_of(table)))
    if not wanted <= set(keys):
        return None
    return table.filter(pa.array([key in wanted for key in keys]))


def _own_predictions(run: Run, split: str) -> pa.Table | None:
    try:
        return prediction_tables.read(run.path, split)
    except UserError:
        return None


def _predict(run: Run, detector: keras.Model, catalog: Catalog, rows: pa.Table) -> pa.Table:
    return complete(
        rows, predict_rows(run, catalog, rows, False, detector=detector, batch_size=_BATCH)
    )
