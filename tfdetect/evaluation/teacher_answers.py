"""The answers of a teacher, of each image once; see `training.distill.asked`."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from tfdetect.core import console
from tfdetect.core.files import write_bytes
from tfdetect.core.probability import EPSILON
from tfdetect.core.run import Run
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import image_source
from tfdetect.evaluation.predictions import CompiledDetector, score_source
from tfdetect.models.saving import load_detector

SPLITS = ("train", "validation")


def teacher_answers(
    teacher: Run, catalog: Catalog, file: Path, batch_size: int, log: console.Log = console.log
) -> dict[str, np.ndarray]:
    """Return a teacher's answers of the images of a training, as they are and as it views them.

    Args:
        teacher: the run that is asked.
        catalog: the data of the training.
        file: where the answers are kept, so that a resumed training need not ask again.
        batch_size: images a batch.
        log: called with what is done.

    Returns:
        float32 [n, logits] for the rows of the splits train and validation: one logit for two
        classes, log-probabilities for more. NaN for images that cannot be read.
    """
    if file.is_file():
        with np.load(file) as kept:
            return dict(kept)
    compiled = CompiledDetector(teacher, load_detector(teacher), features=False)
    answers: dict[str, Any] = {}
    for split in SPLITS:
        rows = catalog.split(split)
        log(
            f"asking {teacher.name} for its answers of {counted(rows.num_rows, 'image')} of {split}"
        )
        classes = len(teacher.class_names)
        found = np.full((rows.num_rows, 1 if classes == 2 else classes), np.nan, np.float32)
        source = image_source(catalog, rows)
        with console.progress(rows.num_rows, f"asking {teacher.name}", "images") as bar:
            for batch in score_source(teacher, compiled, source, batch_size):
                found[batch.indices] = _logits(batch.table)
                bar.advance(len(batch.indices))
        answers[split] = found
    written = BytesIO()
    np.savez(written, **answers)
    file.parent.mkdir(exist_ok=True)
    write_bytes(file, written.getvalue())
    return answers


def _logits(table: np.ndarray) -> np.ndarray:
    """Return logits of class probabilities [B, C]: [B, 1] for two classes, else [B, C]."""
    logs = np.log(np.clip(table, EPSILON, 1))
    return logs[:, 1:] - logs[:, :1] if table.shape[1] == 2 else logs
