"""Makes the pages of single images in a process of its own, since they need TensorFlow."""

import asyncio
import importlib.util
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.run import Run
from tfdetect.core.text import file_name
from tfdetect.data.parallel import process_pool
from tfdetect.serving.service import Overloaded, Upload
from tfdetect.serving.settings import ServerSettings

_TIMEOUT = 600  # seconds for one page


class Explainers:
    """One process that makes pages, one after the other; it starts with the first page."""

    def __init__(self, settings: ServerSettings):
        self._settings = settings
        self._pool: ProcessPoolExecutor | None = None
        self._busy = False

    async def explain(self, run: Run, upload: Upload) -> str:
        """Return the HTML page about an image.

        Raises:
            Overloaded: another page is being made.
            UserError: TensorFlow is not installed, or the page cannot be made.
            ValueError: the image cannot be read.
        """
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError('Explanations need TensorFlow: pip install "tfdetect"')
        if self._busy:
            raise Overloaded
        self._busy = True
        self._pool = self._pool or process_pool(1)
        try:
            future = asyncio.wrap_future(self._pool.submit(_explain, run, upload.name, upload.data))
            return await asyncio.wait_for(future, _TIMEOUT)
        except (BrokenProcessPool, TimeoutError) as error:
            self.stop()
            raise UserError("The page could not be made: its process ended.") from error
        finally:
            self._busy = False

    def stop(self) -> None:
        """End the process."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)


def _explain(run: Run, name: str, data: bytes) -> str:
    from tfdetect.api.detect import Detector

    global _detectors
    detector = _detectors.setdefault(str(run.path), Detector(run))
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / file_name(Path(name).name or "image")
        image.write_bytes(data)
        found = detector.predict([image], pages=Path(folder) / "pages", progress=False)
        if found[0]["error"] is not None:
            raise ValueError(found[0]["error"])
        return found.pages[0].read_text(encoding="utf-8")


_detectors: dict = {}
