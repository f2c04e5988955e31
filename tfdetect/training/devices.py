"""Configure the devices that train, their memory, and the number of replicas."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfdetect.core.cluster import Cluster
from tfdetect.core.errors import UserError
from tfdetect.core.text import as_number

if TYPE_CHECKING:
    import tensorflow as tf

    from tfdetect.imaging.draws import Part
    from tfdetect.training.workers import Workers

_UNITS = {"MIB": 2**20, "MB": 10**6, "GIB": 2**30, "GB": 10**9}


@dataclass(frozen=True)
class MemoryLimit:
    """A memory limit of a GPU.

    Attributes:
        fraction: the fraction of its memory, above 0 and at most 1.
        size: number of bytes.
    """

    fraction: float | None = None
    size: int | None = None


def parse_gpus(text: str | None) -> list[int] | None:
    """Parse `--gpus 0,1`. None means all available GPUs, "none" means no GPU."""
    if text is None:
        return None
    if text.lower() == "none":
        return []
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(
            f"--gpus takes numbers such as 0 or 0,1, or none. Received: {text!r}."
        ) from None
    if len(set(numbers)) != len(numbers) or min(numbers) < 0:
        raise UserError(f"--gpus: {text!r} names a GPU twice or a negative number.")
    return numbers


def parse_memory_limit(text: str | None) -> dict[int | None, MemoryLimit]:
    """Parse `--gpu-memory-limit`: 0.95, 14GiB, or 0=0.9,1=10GiB; key None is every other GPU."""
    if text is None:
        return {}
    limits = {}
    for part in text.split(","):
        gpu, equals, value = part.rpartition("=")
        if equals and not gpu.strip().isdecimal():
            raise UserError(f"--gpu-memory-limit: {gpu!r} in {part!r} is not a GPU's number.")
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", value)
        number, unit = None, ""
        if match is not None:
            number, unit = as_number(match[1]), match[2].upper()
        if number is None or (unit and unit not in _UNITS):
            raise UserError(
                "--gpu-memory-limit takes a fraction such as 0.95, a size such as 14GiB, or one of "
                f"them per GPU such as 0=0.9,1=10GiB. Received: {part!r}."
            )
        if unit:
            limit = MemoryLimit(size=int(number * _UNITS[unit]))
        elif 0 < number <= 1:
            limit = MemoryLimit(fraction=number)
        else:
            raise UserError(
                "--gpu-memory-limit: a fraction is above 0 and at most 1; a size needs a unit, for "
                f"example {value.strip()}GiB. Received: {part!r}."
            )
        limits[int(gpu) if equals else None] = limit
    return limits


@dataclass(frozen=True)
class Devices:
    """The configured devices.

    Attributes:
        strategy: MirroredStrategy for several devices, MultiWorkerMirroredStrategy for several
            workers, none for one device.
        replicas: number of devices that train together, over all workers.
        gpus: number of GPUs among this process's devices.
        text: description for the user.
        workers: the processes that train together; none for one process.
    """

    strategy: Any
    replicas: int
    gpus: int
    text: str
    workers: "Workers | None" = None

    def scope(self) -> Any:
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run; false for the other workers of a cluster."""
        return self.workers is None or self.workers.cluster.is_chief

    def part(self, batch_size: int) -> "Part | None":
        """Return this worker's part of each global batch; None for all of it."""
        return None if self.workers is None else self.workers.part(batch_size)

    def distribute(self, batches: "tf.data.Dataset") -> Any:
        """Return this process's batches as Keras takes them."""
        return batches if self.workers is None else self.workers.distribute(batches)


def configure_devices(
    gpus: list[int] | None = None,
    limits: dict[int | None, MemoryLimit] | None = None,
    virtual: int | None = None,
    cluster: Cluster | None = None,
) -> Devices:
    """Configure TensorFlow's devices; must be called before its first operation.

    With a cluster, wait for its other workers.

    Args:
        gpus: numbers of the GPUs to use; none for all.
        limits: memory limit by GPU number, None for all others. GPUs without a limit allocate
            memory as it is needed.
        virtual: number of logical CPU devices to train on instead.
        cluster: the workers that train together; each uses all its devices.

    Raises:
        UserError: a GPU that does not exist, a limit beyond its memory, or a worker that does not
            come.
    """

    if virtual is not None:
        if cluster is not None:
            raise UserError(
                "--virtual-devices tests several devices of one process, not a cluster."
            )
        if gpus or limits:
            raise UserError(
                "--virtual-devices trains on the CPU. Leave out --gpus and --gpu-memory-limit, or "
                "leave it out."
            )
        return _virtual_devices(virtual)
    limits = limits or {}
    chosen = _use_gpus(gpus, limits)
    text = f"GPU {','.join(map(str, chosen))}" if chosen else "CPU"
    if cluster is not None:
        return _joined(cluster, len(chosen), text)
    strategy = _mirrored([f"GPU:{i}" for i in range(len(chosen))]) if len(chosen) > 1 else None
    return Devices(strategy, max(1, len(chosen)), len(chosen), text)


def _virtual_devices(count: int) -> Devices:
    """Return logical CPU devices; missing ones are created."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    wanted = [tf.config.LogicalDeviceConfiguration()] * count
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) < count:
        _configure(lambda: tf.config.set_logical_device_configuration(cpu, wanted))
    strategy = _mirrored([f"CPU:{i}" for i in range(count)]) if count > 1 else None
    return Devices(strategy, count, 0, f"{count} virtual CPU devices")


def _use_gpus(wanted: list[int] | None, limits: dict[int | None, MemoryLimit]) -> list[int]:
    """Make the wanted GPUs alone visible, and limit their memory; return their numbers.

    Raises:
        UserError: see `configure_devices`.
    """
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    chosen = list(range(len(found))) if wanted is None else wanted
    for number in [*chosen, *(n for n in limits if n is not None)]:
        _check_gpu(number, len(found))
    if limits and not chosen:
        raise UserError("--gpu-memory-limit was given, but no GPU is used.")
    visible = [found[number] for number in chosen]
    if found:
        _configure(lambda: tf.config.set_visible_devices(visible, "GPU"))
    for number, device in zip(chosen, visible):
        _limit_memory(number, device, limits.get(number, limits.get(None)))
    return chosen


def _check_gpu(number: int, count: int) -> None:
    """Check that a GPU is one of those that were found.

    Raises:
        UserError: it is not.
    """
    if number < count:
        return
    if count:
        raise UserError(f"GPU {number} was requested, but there are {count}.")
    raise UserError(
        f"GPU {number} was requested, but no GPU was found. To use one, install tfdetect[gpu] and "
        "NVIDIA's driver; without --gpus the CPU is used."
    )


def _limit_memory(number: int, device: Any, limit: MemoryLimit | None) -> None:
    """Limit the memory of a GPU; without a limit it is allocated as it is needed."""
    import tensorflow as tf

    if limit is None:
        # Best effort: a program that has predicted before it trains is past the choice.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(device, True)
        return
    config = tf.config.LogicalDeviceConfiguration(memory_limit=_mebibytes(number, limit))
    _configure(lambda: tf.config.set_logical_device_configuration(device, [config]))


def _joined(cluster: Cluster, gpus: int, text: str) -> Devices:
    """Return the devices of a cluster after all workers have joined."""
    from tfdetect.training.workers import Workers

    workers = Workers(cluster)
    replicas = workers.strategy.num_replicas_in_sync
    return Devices(
        workers.strategy, replicas, gpus,
        f"{len(cluster)} workers ({', '.join(cluster.addresses)}), {replicas} replicas, {text}",
        workers,
    )  # fmt: skip


def choose_precision(wanted: str, gpus: int) -> str:
    """Return Keras's policy for `training.precision`.

    `auto` is half precision only where every device computes in it, faster than in float32:
    elsewhere it is emulated, about ten times slower.

    Args:
        wanted: value of `training.precision`.
        gpus: number of GPUs that train; 0 for the CPU.
    """
    import tensorflow as tf

    if wanted != "auto":
        return wanted
    if not gpus:
        return "mixed_bfloat16" if cpu_computes_bfloat16() else "float32"
    found = tf.config.get_visible_devices("GPU")
    details = map(tf.config.experimental.get_device_details, found)
    capability = min(each.get("compute_capability", (0, 0)) for each in details)
    if capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= (7, 0) else "float32"


def cpu_computes_bfloat16() -> bool:
    """Return whether this processor computes in bfloat16; false where unknown (not on Linux)."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _mebibytes(number: int, limit: MemoryLimit) -> int:
    """Return a limit in MiB, as TensorFlow takes it, checked against the GPU's memory."""
    import pynvml

    try:
        pynvml.nvmlInit()
        total = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(number)).total
    except pynvml.NVMLError as error:
        if limit.size is None:
            raise UserError(
                f"The driver does not report the memory of GPU {number} ({error}). "
                "Give the limit as a size, for example 14GiB."
            ) from error
        return limit.size // 2**20
    size = limit.size if limit.size is not None else int((limit.fraction or 0) * total)
    if size > total:
        raise UserError(f"--gpu-memory-limit: GPU {number} has {total / 2**30:.1f} GiB.")
    return size // 2**20


def _mirrored(names: list[str]) -> Any:
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names)


def _configure(change: Callable[[], None]) -> None:
    try:
        change()
    except RuntimeError as error:
        raise UserError(
            "Devices can be configured only before TensorFlow's first operation: "
            "call configure_devices first, or start a new process."
        ) from error
