"""Compute the answers of a teacher once for each image; see `training.distill.asked`."""

import time
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from tfdetect.core import console
from tfdetect.core.array_files import load_array
from tfdetect.core.errors import UserError, first_line
from tfdetect.core.files import write_bytes
from tfdetect.core.probability import EPSILON
from tfdetect.core.run import Run
from tfdetect.core.text import counted
from tfdetect.data.catalog import Catalog
from tfdetect.data.sources import image_source
from tfdetect.evaluation.predictions import CompiledDetector, score_source
from tfdetect.models.saving import load_detector

SPLITS = ("train", "validation")
_SECONDS = 60.0  # between two writes of the answers


def teacher_answers(
    teacher: Run, catalog: Catalog, file: Path, batch_size: int, log: console.Log = console.log
) -> dict[str, np.ndarray]:
    """Return a teacher's answers for the images of a training, without augmentation.

    Args:
        teacher: the run whose answers are computed.
        catalog: the data of the training.
        file: the file in which the answers are kept. It is written every minute and when the work
            ends, also by Ctrl-C; a later call continues with the remaining images.
        batch_size: images a batch.
        log: called with each line of progress.

    Returns:
        float32 [n, logits] for the rows of the splits train and validation: one logit for two
        classes, log-probabilities for more. NaN for images that cannot be read.
    """
    parts = {split: catalog.split(split) for split in SPLITS}
    classes = len(teacher.class_names)
    if file.is_file():
        answers, asked = _kept(file)
    else:
        answers = {
            split: np.full((rows.num_rows, 1 if classes == 2 else classes), np.nan, np.float32)
            for split, rows in parts.items()
        }
        asked = dict.fromkeys(SPLITS, 0)  # number of first rows that are done, unreadable ones too
    if all(asked[split] == rows.num_rows for split, rows in parts.items()):
        return answers
    compiled = CompiledDetector(teacher, load_detector(teacher), features=False)
    written = time.monotonic()
    try:
        for split, rows in parts.items():
            first, left = asked[split], rows.num_rows - asked[split]
            if not left:
                continue
            log(
                f"asking {teacher.name} for its answers of {counted(left, 'image')} of {split}"
                + (f"; {first:,} are answered already" if first else "")
            )
            source = image_source(catalog, rows.slice(first))
            with console.progress(left, f"asking {teacher.name}", "images") as bar:
                for batch in score_source(teacher, compiled, source, batch_size):
                    answers[split][first + batch.indices] = _logits(batch.table)
                    # Batches come in order, so a continued training asks for the same batches.
                    asked[split] = first + int(batch.indices.max()) + 1
                    bar.advance(len(batch.indices))
                    if time.monotonic() - written > _SECONDS:
                        _write(file, answers, asked)
                        written = time.monotonic()
            asked[split] = rows.num_rows
    finally:
        _write(file, answers, asked)
    return answers


def _write(file: Path, answers: dict[str, np.ndarray], asked: dict[str, int]) -> None:
    """Write answers by split, and how many rows of each split were asked, atomically."""
    content = BytesIO()
    arrays: dict[str, Any] = {"asked": [asked[split] for split in SPLITS], **answers}
    np.savez(content, **arrays)
    file.parent.mkdir(exist_ok=True)
    write_bytes(file, content.getvalue())


def _kept(file: Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the answers in a file, and how many rows of each split were asked for."""
    try:
        with load_array(file) as kept:
            answers = {split: kept[split] for split in SPLITS}
            return answers, dict(zip(SPLITS, map(int, kept["asked"])))
    except (ValueError, KeyError, BadZipFile) as error:
        raise UserError(
            f"The answers of the teacher in {file} are damaged: {first_line(error)}. Delete this "
            "file; then --resume asks the teacher again."
        ) from error


def _logits(table: np.ndarray) -> np.ndarray:
    """Return logits of class probabilities [B, C]: [B, 1] for two classes, else [B, C]."""
    logs = np.log(np.clip(table, EPSILON, 1))
    return logs[:, 1:] - logs[:, :1] if table.shape[1] == 2 else logs
