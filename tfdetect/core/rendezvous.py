"""Wait for all workers of a cluster before TensorFlow starts, which would wait without limit."""

import asyncio
from contextlib import suppress

from tfdetect.core.cluster import Cluster
from tfdetect.core.errors import UserError

_PAUSE = 0.2  # seconds between two tries to reach a worker


def meet(cluster: Cluster, seconds: float) -> None:
    """Wait until every worker has reached every other one at its address.

    Args:
        cluster: the workers; this one listens at its own address meanwhile.
        seconds: to wait at most.

    Raises:
        UserError: a worker that was not reached in time or ended, or an address that is not free.
    """
    asyncio.run(_Meeting(cluster).hold(seconds))


class _Meeting:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.missing = set(range(len(cluster))) - {cluster.task}
        self.waiting = set(range(1, len(cluster)))  # for the chief, until they have met all others
        self.all_ready = asyncio.Event()
        self.begins = asyncio.Event()  # set by the chief, when it has met all others, too

    async def hold(self, seconds: float) -> None:
        own = self.cluster.addresses[self.cluster.task]
        try:
            server = await asyncio.start_server(self._answer, None, _port(own))
        except OSError as error:
            raise UserError(
                f"Worker {self.cluster.task} cannot listen at {own}: {error.strerror}."
            ) from error
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*map(self._reach, sorted(self.missing)))
                await self._begin_together()
        except TimeoutError:
            late = self.missing or (self.waiting if self.cluster.is_chief else {0})
            names = ", ".join(f"{n} ({self.cluster.addresses[n]})" for n in sorted(late))
            raise UserError(
                f"Worker {names} was not ready within {seconds:g} s. Start each of the "
                f"{len(self.cluster)} workers with its own --task, and let them reach each other's "
                "ports."
            ) from None
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer with the name of this worker; the chief answers when all workers are ready."""
        with suppress(OSError, ValueError):
            words = (await reader.readline()).split()
            if words[:1] == [b"ready"] and self.cluster.is_chief:
                self.waiting.discard(int(words[1]))
                if not self.waiting:
                    self.all_ready.set()
                await self.begins.wait()
            writer.write(self._name(self.cluster.task))
            await writer.drain()
        writer.close()

    async def _reach(self, task: int) -> None:
        while (answer := await self._ask(task, b"hello\n")) != self._name(task):
            if answer:
                raise UserError(
                    f"{self.cluster.addresses[task]} is not worker {task} of this cluster. Give "
                    "all workers the same --cluster, and each its own --task."
                )
            await asyncio.sleep(_PAUSE)
        self.missing.discard(task)

    async def _begin_together(self) -> None:
        if self.cluster.is_chief:
            await self.all_ready.wait()
            self.begins.set()
            await asyncio.sleep(_PAUSE)  # until the answers are on their way
        elif await self._ask(0, b"ready %d\n" % self.cluster.task) != self._name(0):
            raise UserError(
                f"The chief, worker 0 ({self.cluster.addresses[0]}), ended before the training "
                "began. Look at what it printed, and start all workers again."
            )

    async def _ask(self, task: int, question: bytes) -> bytes:
        """Return a worker's answer, empty if it does not answer."""
        address = self.cluster.addresses[task]
        with suppress(OSError):
            host = address.rpartition(":")[0].strip("[]")
            reader, writer = await asyncio.open_connection(host, _port(address))
            writer.write(question)
            answer = await reader.readline()
            writer.close()
            return answer
        return b""

    def _name(self, task: int) -> bytes:
        return f"tfdetect worker {task} of {','.join(self.cluster.addresses)}\n".encode()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
