"""Cross-fitted scores: those of an ensemble on the images that its fusion was fitted on.

A fusion that was fitted on validation images knows them, the more so the more parameters it has.
Thresholds, abstention band and calibration chosen on such scores promise too much. So an ensemble
keeps, for each of these images, by how much its logit changes if the fusion is fitted without the
image's group, and every evaluation on its own dataset applies it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.special import expit

from tfdetect.core.array_files import load_array, save_array
from tfdetect.core.columns import Column, numbers_of, with_columns
from tfdetect.core.errors import UserError
from tfdetect.core.run import Run

FILE = "cross_fitting.npy"
_TYPE = np.dtype([("hash", "<u8"), ("shift", "<f8")])


@dataclass(frozen=True)
class CrossFitting:
    """How the logits of images change without the image's group in the fit of the fusion.

    Attributes:
        table: one structure for each image, in the order of its hashes: hash (the first 8 bytes of
            the content hash, uint64) and shift (the logit of P(fake) by a fusion that was fitted
            without the image's group, minus the logit by the fusion of the run, float64).
    """

    table: np.ndarray

    @classmethod
    def of(cls, hashes: np.ndarray, shifts: np.ndarray) -> "CrossFitting":
        """Return the shifts of images.

        Args:
            hashes: the content hashes of a catalog, hexadecimal, [n]. Of equal ones one counts.
            shifts: float [n].
        """
        keys, first = np.unique(_keys(hashes), return_index=True)
        table = np.empty(len(keys), _TYPE)
        table["hash"], table["shift"] = keys, np.asarray(shifts, np.float64)[first]
        return cls(table)

    def save(self, folder: Path) -> None:
        """Write the file into the folder of a run."""
        save_array(folder / FILE, self.table)

    @classmethod
    def load(cls, folder: Path) -> "CrossFitting | None":
        """Read the file in the folder of a run; None where there is none.

        Raises:
            UserError: the file is damaged.
        """
        if not (folder / FILE).is_file():
            return None
        try:
            table = load_array(folder / FILE, dtype=_TYPE)
            if not np.isfinite(table["shift"]).all():
                raise ValueError("a shift is no finite number")
        except (OSError, ValueError) as error:
            raise UserError(
                f"Run {folder} is corrupt: {FILE} is damaged: {error}. Copy the run again, or make "
                "the ensemble again."
            ) from error
        return cls(table)

    def shifts_of(self, rows: pa.Table) -> np.ndarray:
        """Return the shift of each row of a catalog, float64 [n]; 0 if it was not fitted on."""
        if not len(self.table):
            return np.zeros(rows.num_rows)
        keys = _keys(np.array(rows["hash"].to_pylist(), str))
        where = np.minimum(np.searchsorted(self.table["hash"], keys), len(self.table) - 1)
        return np.where(self.table["hash"][where] == keys, self.table["shift"][where], 0.0)


def held_out_shifts(run: Run, rows: pa.Table) -> np.ndarray:
    """Return the shifts of rows of a run's own dataset, float64 [n]; all 0 where it keeps none.

    Raises:
        UserError: the file of an ensemble that has one is missing or damaged.
    """
    if not run.info.cross_fitted:
        return np.zeros(rows.num_rows)
    found = CrossFitting.load(run.path)
    if found is None:
        raise UserError(
            f"Run {run.path} is incomplete: {FILE}, by which its validation images are scored, is "
            "missing. Copy it from where the run was made, or make the ensemble again."
        )
    return found.shifts_of(rows)


def cross_fitted(table: pa.Table, run: Run, shifts: np.ndarray) -> pa.Table:
    """Return predictions whose logits of P(fake) are shifted.

    The ratios between the probabilities of the kinds of fakes are unchanged.

    Args:
        table: from `predict_source`, by `uncalibrated(run)`; `recalibrate` fills in the rest.
        run: says which classes there are.
        shifts: float [n]; images with 0 keep their scores.
    """
    names = [f"probability_{name}" for name in run.class_names]
    old = np.stack([numbers_of(table, name) for name in names], axis=1).astype(np.float64)
    before = numbers_of(table, "logit").astype(np.float64)
    missing, moved = np.isnan(before), shifts != 0
    logits = np.where(moved, before + shifts, before)
    total = old[:, 1:].sum(axis=1, keepdims=True)
    kinds = np.where(total > 0, old[:, 1:] / np.maximum(total, 1e-30), 1 / (len(names) - 1))
    new = np.concatenate([expit(-logits)[:, None], kinds * expit(logits)[:, None]], axis=1)
    new = np.where(moved[:, None], new, old).astype(np.float32)
    columns = {name: Column(new[:, n], missing).to_arrow() for n, name in enumerate(names)}
    columns["logit"] = Column(logits.astype(np.float32), missing).to_arrow()
    return with_columns(table, **columns)


def _keys(hashes: np.ndarray) -> np.ndarray:
    """Return the first 8 bytes of hexadecimal hashes, uint64 [n]."""
    return np.array([int(text[:16], 16) for text in hashes], np.uint64)
