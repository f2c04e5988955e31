"""`Slot`: the GPUs and CPU cores that one of several parallel trials gets."""

import os
from dataclasses import dataclass

from tfdetect.core.process import allowed_cores

_GPU_MEMORY = 0.95  # fraction that trials on one GPU share


@dataclass(frozen=True)
class Slot:
    """The part of the machine that one trial gets.

    Attributes:
        arguments: arguments of the command line of the trial that choose its GPUs.
        cores: numbers of its CPU cores.
    """

    arguments: tuple[str, ...]
    cores: tuple[int, ...]

    def environment(self) -> dict[str, str]:
        """Return the environment of the trial, whose variables limit its threads."""
        return os.environ | thread_limits(len(self.cores)) | {"PYTHONUNBUFFERED": "1"}


def thread_limits(threads: int) -> dict[str, str]:
    """Return environment variables that limit a process to a number of threads."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    return {name: str(threads) for name in names}


def allocate_slots(parallel: int, gpus: list[int] | None, memory_limit: str | None) -> list[Slot]:
    """Divide GPUs and CPU cores evenly among parallel trials.

    Args:
        parallel: number of trials at once.
        gpus: GPUs to use; [] for none, None for all.
        memory_limit: as `--gpu-memory-limit` takes it; by default, trials on the same GPU share
            its memory evenly.
    """
    cores = allowed_cores()
    available = list(range(_count_gpus())) if gpus is None else gpus
    slots = []
    for number in range(parallel):
        own = _part(cores, number, parallel)
        if not available:
            slots.append(Slot(("--gpus", "none") if gpus is not None else (), own))
            continue
        sharing = -(-parallel // len(available)) if parallel > len(available) else 1
        memory = memory_limit or (f"{_GPU_MEMORY / sharing:.3f}" if sharing > 1 else None)
        arguments = ["--gpus", ",".join(map(str, _part(available, number, parallel)))]
        arguments += ["--gpu-memory-limit", memory] if memory else []
        slots.append(Slot(tuple(arguments), own))
    return slots


def _part(items: list[int], number: int, parts: int) -> tuple[int, ...]:
    """Return an even part of the items, or one of them in turn if there are fewer than parts."""
    if len(items) < parts:
        return (items[number % len(items)],)
    return tuple(items[number * len(items) // parts : (number + 1) * len(items) // parts])


def _count_gpus() -> int:
    """Return the number of GPUs that this process sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return 0
