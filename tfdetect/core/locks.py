"""Lock files, by which several processes do not write the same folder or file at once."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(file: Path, refusal: Exception | None = None) -> Iterator[None]:
    """Hold a lock, whose file is removed at the end; the lock also ends with the process.

    Args:
        file: the lock file.
        refusal: raised at once if another process holds the lock; None waits for that process.
    """
    lock = acquire(file, refusal)
    try:
        yield
    finally:
        release(lock)


def acquire(file: Path, refusal: Exception | None = None) -> FileLock:
    """Take a lock, for `release` to give it back; see `locked`."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=-1 if refusal is None else 0)
    except Timeout:
        assert refusal is not None
        raise refusal from None
    return lock


def release(lock: FileLock) -> None:
    """Give a lock back and remove its file."""
    # While it is held: a process that waits for this file sees that it is gone, and makes another.
    with suppress(OSError):  # Windows removes no open file
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
