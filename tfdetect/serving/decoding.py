"""Decode uploaded files in separate processes, because a malicious file may end its process."""

import asyncio
import base64
import io
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from tfdetect.core.process_pool import end_pool, process_pool
from tfdetect.core.run import Run
from tfdetect.core.shipped_runs import suited
from tfdetect.evaluation.overlays import for_page
from tfdetect.forensics.region_pictures import evidence_pictures
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.frames import frames_of
from tfdetect.imaging.pillow import read_rgb
from tfdetect.light.onnx_predictions import image_parts, read_image
from tfdetect.light.reencodings import reencoded

Result = TypeVar("Result")
MAX_MEMORY = 4 * 2**30  # bytes of address space of a decoding process


@dataclass(frozen=True)
class Decoded:
    """One file as the detector takes it.

    Attributes:
        parts: the views of the image, see `light.onnx_predictions.image_parts`; None if the file
            cannot be read.
        facts: size, format and hashes of the file, int64 [5], see `imaging.facts`; None if it
            cannot be read.
        error: why the file cannot be read, or None.
        frames: the number of frames or pages of the file.
        detector: name of the run that it is decoded for; "" if its process ended.
    """

    parts: list[np.ndarray] | None = None
    facts: np.ndarray | None = None
    error: str | None = None
    frames: int = 1
    detector: str = ""


def decode(data: bytes, runs: Sequence[Run], max_pixels: int, copy: str | None = None) -> Decoded:
    """Decode a file; the result has an `error` if it cannot be read.

    Args:
        data: the bytes of the file.
        runs: the detector, whose views determine what is cut out of the image; if there are
            several, it is the one that `core.shipped_runs.suited` names, and the first one for a
            file that cannot be read.
        max_pixels: images with more pixels are refused.
        copy: name of a re-encoding of `light.reencodings` that is applied to the image first; None
            for the image itself.
    """
    run = runs[0]
    try:
        image, facts = read_image(data, max_pixels)
        if len(runs) > 1:
            name = suited((image.shape[1], image.shape[0]))
            run = next(each for each in runs if each.name == name)
        if copy is not None:
            image = reencoded(image, copy)
        frames = frames_of(data, max_pixels)
        return Decoded(image_parts(run, image), facts, frames=frames, detector=run.name)
    except MemoryError:
        return Decoded(error="it needs too much memory", detector=run.name)
    except ImageError as error:
        return Decoded(error=str(error), detector=run.name)


def examine(
    data: bytes, run: Run, row: Mapping[str, Any], max_pixels: int, pictures: bool = False
) -> dict[str, Any]:
    """Return the evidence on a file as data for JSON; see `forensics.evidence`.

    Args:
        data: the bytes of the file.
        run: the detector.
        row: its prediction of the file.
        max_pixels: images with more pixels are refused.
        pictures: whether to add pictures of the regions that the evidence is about.

    Returns:
        headline, tone, reasons, rule, lines and pictures of `schemas.Evidence`; only `error` if the
        file cannot be read.
    """
    from tfdetect.forensics.evidence import evidence

    try:
        pixels = np.asarray(read_rgb(data, max_pixels))
        found = evidence(data, [(run, row)], pixels, max_pixels)
        shown = evidence_pictures(found, pixels) if pictures else []
        drawn = [
            {"title": each.title, "alt": each.alt, "caption": each.caption,
             "png": png_text(for_page(each.pixels))} for each in shown
        ]  # fmt: skip
    except MemoryError:
        return {"error": "it needs too much memory"}
    except ImageError as error:
        return {"error": str(error)}
    return {**found.to_dict(), "tone": found.tone, "pictures": drawn}


def png_text(image: Image.Image) -> str:
    """Return an image as a PNG file in base64."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _warm_up() -> None:
    """Import what decodes files; wait, so that other processes of the pool do the same."""
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin  # noqa: F401

    time.sleep(0.2)


def _within_limits(task: Callable[[], Result], seconds: float) -> Result:
    """Run a task in a worker process, which ends if the task takes too long or too much memory.

    Args:
        task: the task.
        seconds: time after which the process ends.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)  # then SIGALRM ends the process
    try:
        return task()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Decoders:
    """Processes that decode files for a server.

    A file that ends its process, or takes longer than the limit, gets an error; other files are
    decoded in new processes.

    Args:
        count: number of processes.
        timeout: seconds for one file.
        function: decodes a file, see `decode`.
    """

    def __init__(
        self,
        count: int,
        timeout: float,
        function: Callable[[bytes, Sequence[Run], int, str | None], Decoded] = decode,
    ):
        self._count, self._timeout, self._function = count, timeout, function
        self._pool = process_pool(count)

    async def start(self) -> None:
        """Start the processes and import what they need, so that no request waits for it."""
        futures = [self._pool.submit(_warm_up) for _ in range(self._count)]
        with suppress(BrokenProcessPool):  # a signal to the whole process group ended them
            await asyncio.gather(*map(asyncio.wrap_future, futures))

    async def decode(
        self, data: bytes, runs: Sequence[Run], max_pixels: int, copy: str | None = None
    ) -> Decoded:
        """Decode a file; see `decode`. No content of a file raises an error."""
        found = await self._result(partial(self._function, data, runs, max_pixels, copy))
        return Decoded(error=self._ended) if found is None else found

    async def examine(
        self, data: bytes, run: Run, row: Mapping[str, Any], max_pixels: int, pictures: bool
    ) -> dict[str, Any]:
        """Return the evidence on a file; see `examine`. No content of a file raises an error."""
        found = await self._result(partial(examine, data, run, row, max_pixels, pictures))
        return {"error": self._ended} if found is None else found

    @property
    def _ended(self) -> str:
        """The error of a file that ended its process."""
        return f"decoding it crashed or took longer than {self._timeout:g} s"

    async def _result(self, task: Callable[[], Result]) -> Result | None:
        """Return the result of a task, or None if it ends its process."""
        pool = self._pool
        try:
            return await self._run(pool, task)
        except (BrokenProcessPool, asyncio.CancelledError):
            if not getattr(pool, "_broken", False):
                raise  # the request was cancelled
            self._replace(pool)
        alone = process_pool(1)  # shows whether this file or another one ended the process
        try:
            return await self._run(alone, task)
        except BrokenProcessPool:
            return None
        finally:
            end_pool(alone)

    async def _run(self, pool: ProcessPoolExecutor, task: Callable[[], Result]) -> Result:
        return await asyncio.wrap_future(pool.submit(_within_limits, task, self._timeout))

    def _replace(self, pool: ProcessPoolExecutor) -> None:
        """Replace a pool in which a process ended; its other files are decoded again."""
        if pool is self._pool:
            self._pool = process_pool(self._count)
        end_pool(pool)

    def stop(self) -> None:
        """End the processes."""
        end_pool(self._pool)
