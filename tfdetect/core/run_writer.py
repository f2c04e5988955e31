"""`RunWriter`: a run that is being written."""

import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tfdetect.core.errors import UserError
from tfdetect.core.files import check_writable, write_text
from tfdetect.core.run import PARTIAL, Run, read_info


class RunWriter:
    """A run being written: `<name>.partial`, locked while this process lives."""

    def __init__(self, path: Path):
        self.final = path
        self.path = path.with_name(path.name + PARTIAL)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def acquire(self) -> None:
        """Takes the lock, and makes the folder.

        Raises:
            UserError: another process is writing this run, or the folder
                cannot be written.
        """
        check_writable(self.final.parent)
        try:
            self._lock.acquire(timeout=0)
            self.path.mkdir(exist_ok=True)
            (self.path / "logs").mkdir(exist_ok=True)
        except Timeout:
            raise UserError(f"Another process is writing the run {self.final}.") from None

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the run atomically."""
        write_text(self.path / name, text)

    def update_info(self, **values: Any) -> dict[str, Any]:
        """Merges `values` into run.json and returns the whole."""
        file = self.path / "run.json"
        info = json.loads(file.read_text()) if file.is_file() else {}
        info.update(values)
        self.write_text("run.json", json.dumps(info, indent=2))
        return info

    def adopt(self) -> None:
        """Takes an interrupted run under its final name up again."""
        shutil.rmtree(self.path)  # the empty one that acquire made
        self.final.rename(self.path)

    def finish(self) -> Run:
        """Renames the run to its final name and gives the lock back."""
        self.path.rename(self.final)
        self.release()
        return Run(self.final, read_info(self.final))

    def abandon(self) -> None:
        """Gives the lock back; a run without any state to resume from is removed."""
        if self.path.is_dir() and not (self.path / "state").is_dir():
            shutil.rmtree(self.path)
        self.release()

    def release(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)
