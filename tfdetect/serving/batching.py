"""`Batcher`: collects the images of several requests into batches for one detector."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Calls a function with batches of items that arrive one by one.

    No item waits for a batch to become full: a batch is what arrived while the previous one was
    worked on.

    Args:
        run: returns the result of each item; called in a thread of its own with one batch at a
            time.
        size: number of items in a batch, at most.
    """

    def __init__(self, run: Callable[[Sequence[Item]], Sequence[Result]], size: int):
        self._run, self._size = run, size
        self._queue: asyncio.Queue[tuple[Item, asyncio.Future[Result]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work on items; must be called in the event loop."""
        self._task = asyncio.create_task(self._work())

    async def submit(self, item: Item) -> Result:
        """Return the result of an item; raise the error that the function raises for its batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        await self._queue.put((item, future))
        return await future

    async def _work(self) -> None:
        """Work on batches until the task is cancelled."""
        while True:
            batch = await self._collect()
            batch = [(item, future) for item, future in batch if not future.done()]
            if not batch:  # the requests were cancelled
                continue
            items = [item for item, _ in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._run, items
                )
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _collect(self) -> list[tuple[Item, "asyncio.Future[Result]"]]:
        """Wait for one item; return it with those that are there already."""
        batch = [await self._queue.get()]
        while len(batch) < self._size and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def stop(self) -> None:
        """Stop; items that wait get no result."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)
