"""Make the pages that explain single images, in a process of its own that loads TensorFlow."""

import asyncio
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.core.errors import UserError
from tfdetect.core.files import FailedWrites
from tfdetect.core.packages import has_tensorflow
from tfdetect.core.process_pool import end_pool, process_pool
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run import Run
from tfdetect.core.text import file_name
from tfdetect.serving.service import Overloaded, Upload

if TYPE_CHECKING:
    from tfdetect.evaluation.predictions import CompiledDetector

_TIMEOUT = 600  # seconds for one page
# Detectors that the process of `Explainers` has loaded, by the folder of the run.
_detectors: "dict[Path, CompiledDetector]" = {}


class Explainers:
    """A process that makes pages, one at a time; it is started for the first page.

    Args:
        max_pixels: images with more pixels are refused.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._pool: ProcessPoolExecutor | None = None
        self._busy = False

    @property
    def possible(self) -> bool:
        """Whether TensorFlow is installed."""
        return has_tensorflow()

    async def explain(self, run: Run, upload: Upload) -> str:
        """Return the HTML page that explains the verdict on an image.

        Args:
            run: the detector.
            upload: the image file.

        Raises:
            Overloaded: another page is being made.
            UserError: TensorFlow is not installed, or the page cannot be made.
            ValueError: the image cannot be read.
        """
        if not self.possible:
            raise UserError(
                'Explanations need TensorFlow, which this server lacks: pip install "tfdetect"'
            )
        if self._busy:
            raise Overloaded("Another explanation is being made. Try again later.", 10)
        self._busy = True
        self._pool = self._pool or process_pool(1)
        try:
            future = asyncio.wrap_future(
                self._pool.submit(explanation_page, run, upload.name, upload.data, self._max_pixels)
            )
            return await asyncio.wait_for(future, _TIMEOUT)
        except (BrokenProcessPool, TimeoutError) as error:
            self.stop()
            raise UserError(
                "The page could not be made: its process crashed, or took longer than "
                f"{_TIMEOUT / 60:g} minutes."
            ) from error
        finally:
            self._busy = False

    def stop(self) -> None:
        """End the process."""
        pool, self._pool = self._pool, None
        if pool is not None:
            end_pool(pool)


def explanation_page(run: Run, name: str, data: bytes, max_pixels: int) -> str:
    """Return the page that explains an image; it runs in the process of `Explainers`.

    Args:
        run: the detector.
        name: the name of the file.
        data: the bytes of the file.
        max_pixels: images with more pixels are refused.

    Raises:
        UserError: the page cannot be made.
        ValueError: the image cannot be read.
    """
    import_tensorflow()
    from tfdetect.evaluation.predictions import CompiledDetector, predict_files
    from tfdetect.explanation.image_page import explain_files
    from tfdetect.models.saving import load_detector

    if run.path not in _detectors:
        _detectors[run.path] = CompiledDetector(run, load_detector(run))
    detector, failed = _detectors[run.path], FailedWrites()
    with tempfile.TemporaryDirectory() as folder:
        image, page = Path(folder, file_name(Path(name).name or "image")), Path(folder, "page.html")
        image.write_bytes(data)
        table = predict_files(run, detector, [str(image)], progress=False, max_pixels=max_pixels)
        [error] = table["error"].to_pylist()
        if error is not None:
            raise ValueError(error)
        list(explain_files(run, detector, table, [page], failed, max_pixels))
        if failed.reasons:
            raise UserError(next(iter(failed.reasons.values())))
        return page.read_text(encoding="utf-8")
