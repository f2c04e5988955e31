"""`Service`: the detectors of a server, with decoding, a bounded queue and batches."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.shipped_runs import LOCALIZER, PHOTO_DETECTOR, SMALL_IMAGES
from tfdetect.evaluation.prediction_columns import PredictionColumns
from tfdetect.evaluation.remarks import frames_sentence, remarks
from tfdetect.evaluation.stability import reencoding, reencodings_of, stability_sentences
from tfdetect.evaluation.verdict_words import verdict_words
from tfdetect.imaging.facts import COUNT
from tfdetect.light.onnx_detector import LightDetector
from tfdetect.light.onnx_predictions import image_parts, score_images
from tfdetect.serving.batching import Batcher
from tfdetect.serving.decoding import Decoded, Decoders, png_text
from tfdetect.serving.server_settings import ServerSettings


@dataclass(frozen=True)
class Upload:
    """An image file that a client sent."""

    name: str
    data: bytes


class Overloaded(Exception):
    """The server has too much to do; the client can try again later.

    Args:
        text: the message for the client.
        retry_after_s: seconds after which the client should try again.
    """

    def __init__(self, text: str, retry_after_s: int):
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Service:
    """The runs that a server offers.

    Args:
        runs: runs with ONNX exports and different names; the first one is the default.
        settings: the limits.
        by_size: whether images of requests that name no run get the one of `runs` that suits their
            size by `core.shipped_runs.suited`, as in `predict` without a run; `runs` are then those
            that come with tfdetect.

    Raises:
        UserError: a run has no ONNX export or is given twice, or two runs have the same name.
    """

    def __init__(self, runs: Sequence[Run], settings: ServerSettings, by_size: bool = False):
        _check_names(runs)
        self.settings, self.by_size = settings, by_size
        self.detectors = {run.name: LightDetector(run) for run in runs}
        self.decoders = Decoders(settings.decoders, settings.timeout_s)
        self.in_flight = 0
        self.ready = False
        self._batchers = {
            name: Batcher(partial(_predict, detector), settings.batch_size)
            for name, detector in self.detectors.items()
        }

    async def start(self) -> None:
        """Start the decoding processes, and call each detector once, so that no request waits."""
        await self.decoders.start()
        for name, detector in self.detectors.items():
            self._batchers[name].start()
            blank = np.zeros((64, 64, 3), np.uint8)
            parts = image_parts(detector.run, blank)
            await self._batchers[name].submit(Decoded(parts, np.zeros(COUNT, np.int64)))
        self.ready = True

    async def stop(self) -> None:
        """Stop; the web server has waited for running requests before."""
        self.ready = False
        for batcher in self._batchers.values():
            await batcher.stop()
        self.decoders.stop()

    def name_of(self, name: str | None, masks: bool = False) -> str | None:
        """Return the name of the run for a request; None if the size of each image decides.

        Args:
            name: the name of a run that the request asks for; None if it asks for none.
            masks: whether it asks for masks.
        """
        if name is not None:
            return name
        if self.by_size and masks:
            return LOCALIZER
        return None if self.by_size else next(iter(self.detectors))

    async def detector_of(self, name: str | None, upload: Upload) -> str:
        """Return the name of the run that an image gets; see `name_of` for `name`."""
        if name is not None:
            return name
        runs = self._runs(None)
        decoded = await self.decoders.decode(upload.data, runs, self.settings.max_pixels)
        return decoded.detector or runs[0].name

    async def predict(
        self, name: str | None, uploads: Sequence[Upload], masks: bool = False
    ) -> list[dict[str, Any]]:
        """Return the predictions of images, in order; a file that cannot be read has an `error`.

        Args:
            name: the name of the run; None if the size of each image decides.
            uploads: the image files.
            masks: whether to add `mask_png`, if the run predicts masks.

        Returns:
            One dictionary for each image, as `schemas.Prediction` describes it.

        Raises:
            Overloaded: too many images wait already.
        """
        with self._room(len(uploads)):
            return await asyncio.gather(*(self._predict(name, each, masks) for each in uploads))

    async def examine(
        self, name: str | None, uploads: Sequence[Upload], pictures: bool = False
    ) -> list[dict[str, Any]]:
        """Return the evidence on each image, in order; a file that cannot be read has an `error`.

        Args:
            name: the name of the run; None if the size of each image decides.
            uploads: the image files.
            pictures: whether to add pictures of the regions that the evidence is about.

        Raises:
            Overloaded: too many images wait already.
        """
        with self._room(len(uploads)):
            return await asyncio.gather(*(self._examine(name, each, pictures) for each in uploads))

    async def reencode(self, name: str | None, upload: Upload) -> dict[str, Any]:
        """Return the verdicts on re-encoded copies of an image; see `schemas.Stability`.

        Args:
            name: the name of the run; None if the size of the image decides.
            upload: the image file.

        Raises:
            Overloaded: too many images wait already.
        """
        with self._room(1):
            row, facts = await self._scored(name, upload)
            if row["error"] is not None or facts is None:
                return {"path": upload.name, "model": row["detector"], "error": row["error"]}
            name, found = row["detector"], {}
            run = self.detectors[name].run
            size = int(facts[0]), int(facts[1])
            # One at a time, because each may be large.
            for copy in reencodings_of(run.predicts_masks, size):
                found[copy], _ = await self._scored(name, upload, copy)
        rows = {copy: each for copy, each in found.items() if each["error"] is None}
        scores = {copy: each["p_fake"] for copy, each in rows.items()}
        return {
            "path": upload.name,
            "model": name,
            "error": None,
            "sentence": stability_sentences(run, row["p_fake"], scores, size),
            "copies": [
                {"name": copy, "words": reencoding(copy), "p_fake": each["p_fake"],
                 "verdict": each["verdict"], "inconclusive": each["inconclusive"]}
                for copy, each in rows.items()
            ],
        }  # fmt: skip

    @contextmanager
    def _room(self, count: int) -> Iterator[None]:
        """Count images as in flight while they are processed.

        Raises:
            Overloaded: with them, more images would be in flight than the queue holds.
        """
        if self.in_flight + count > self.settings.queue_size:
            raise Overloaded(
                f"The queue has room for {self.settings.queue_size} images, and {self.in_flight} "
                "wait already. Try again later.", 1,
            )  # fmt: skip
        self.in_flight += count
        try:
            yield
        finally:
            self.in_flight -= count

    def _runs(self, name: str | None) -> list[Run]:
        """Return the run of a name; without one, those among which the size of an image decides."""
        names = (PHOTO_DETECTOR, SMALL_IMAGES) if name is None else (name,)
        return [self.detectors[each].run for each in names]

    async def _scored(
        self, name: str | None, upload: Upload, copy: str | None = None
    ) -> tuple[dict[str, Any], np.ndarray | None]:
        """Return the row of one image, or of a re-encoded copy of it, and the image's facts.

        The facts, see `imaging.facts`, begin with height and width; None if it cannot be read.
        """
        runs = self._runs(name)
        decoded = await self.decoders.decode(upload.data, runs, self.settings.max_pixels, copy)
        detector = decoded.detector or runs[0].name
        row = await self._batchers[detector].submit(decoded)
        return {**row, "detector": detector}, decoded.facts

    async def _predict(self, name: str | None, upload: Upload, masks: bool) -> dict[str, Any]:
        """Return the prediction of one image."""
        row, _ = await self._scored(name, upload)
        mask = row.pop("mask")
        if masks and mask is not None:
            row["mask_png"] = _png(mask)
        return {"path": upload.name, **row}

    async def _examine(self, name: str | None, upload: Upload, pictures: bool) -> dict[str, Any]:
        """Return the evidence on one image."""
        row = await self._predict(name, upload, False)
        if row["error"] is not None:
            return {"path": upload.name, "detector": row["detector"], "error": row["error"]}
        run, limit = self.detectors[row["detector"]].run, self.settings.max_pixels
        found = await self.decoders.examine(upload.data, run, row, limit, pictures)
        return {"path": upload.name, "detector": run.name, "error": None, **found}


def _check_names(runs: Sequence[Run]) -> None:
    """Check that runs have different names, by which requests choose one.

    Raises:
        UserError: a run is given twice, or two runs have the same name.
    """
    paths: dict[str, Path] = {}
    for run in runs:
        path, other = run.path.resolve(), paths.get(run.name)
        if other == path:
            raise UserError(f"The run {run.path} is given twice. Give each run once.")
        if other is not None:
            raise UserError(
                f"Two different runs have the name {run.name}: {other} and {path}. Requests choose "
                "a run by its name, which is that of its folder: rename one of the two folders, or "
                "give a copy with another name."
            )
        paths[run.name] = path


def _predict(detector: LightDetector, batch: Sequence[Decoded]) -> list[dict[str, Any]]:
    """Return the predictions of decoded files; `mask` is the predicted mask, or None."""
    run, found = detector.run, {}
    columns = PredictionColumns(
        run, len(batch), run.predicts_masks, on_mask=lambda mask: found.update({mask.index: mask})
    )
    good = [
        (index, each.parts, each.facts)
        for index, each in enumerate(batch)
        if each.parts is not None and each.facts is not None
    ]
    size = 1 if run.predicts_masks else len(batch)
    for first in range(0, len(good), size):
        columns.add(score_images(detector, good[first : first + size]))
    rows = columns.table([each.error for each in batch]).to_pylist()
    for index, row in enumerate(rows):
        row["mask"] = found[index].altered if index in found else None
        if row["error"] is None:
            row["frames"] = batch[index].frames
            row["remarks"] = "; ".join(remarks(run, row))
            words = verdict_words(run, row, row["in_domain"] is False)._asdict()
            row["words"] = words | {"lines": [*words["lines"], *frames_sentence(row)]}
    return rows


def _png(mask: np.ndarray) -> str:
    """Return a mask, P(altered) from 0 to 1, as a gray PNG file in base64."""
    return png_text(Image.fromarray(np.rint(mask * 255).astype(np.uint8)))
