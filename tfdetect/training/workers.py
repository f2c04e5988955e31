"""Train one model in several processes with TensorFlow and Keras."""

import json
import os
import re
import signal
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as keras_trainer
from tensorflow.python.eager import context

from tfdetect.core.cluster import Cluster
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_bytes
from tfdetect.core.rendezvous import meet
from tfdetect.imaging.draws import Part
from tfdetect.imaging.graph import traced_as_written

REGISTER_SECONDS = 300  # that workers wait for each other at the start
HEARTBEAT_SECONDS = 20  # without a sign of life, after which a worker counts as lost
STEPS_BETWEEN_DECISIONS = 20  # that depend on a clock, and so are the chief's
_CHUNK = 2**24  # numbers that are sent at once

# What TensorFlow raises in the other workers when one of them is gone.
_LOST = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
    tf.errors.DeadlineExceededError, tf.errors.InternalError,
)  # fmt: skip


class WorkerLostError(UserError):
    """Another worker of the training ended or cannot be reached."""


class Workers:
    """The processes that train together, as this one sees them.

    Attributes:
        cluster: their addresses, and which one this is.
        strategy: MultiWorkerMirroredStrategy.
    """

    def __init__(self, cluster: Cluster) -> None:
        """Meet the other workers. Must be called before TensorFlow's first operation.

        Raises:
            UserError: they did not all come within `REGISTER_SECONDS`, or Keras lacks what is
                replaced here.
        """
        _check_keras()
        meet(cluster, REGISTER_SECONDS)
        self.cluster = cluster
        os.environ["TF_CONFIG"] = cluster.tf_config()
        # By TensorFlow's own settings a lost machine is noticed after minutes.
        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader="/job:worker/replica:0/task:0",
            heartbeat_timeout_in_ms=HEARTBEAT_SECONDS * 1000,
            coordinated_jobs=[_job(len(cluster))],
        )
        implementation = tf.distribute.experimental.CommunicationImplementation.AUTO
        options = tf.distribute.experimental.CommunicationOptions(implementation=implementation)
        with self.translated():
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        _handle_sigterm_again()
        keras_trainer.reduce_per_replica = _reduce_over_workers

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what TensorFlow raises about a lost worker into one message."""
        try:
            yield
        except _LOST as error:
            raise WorkerLostError(
                f"{self._lost_names(str(error))} of the training ended or cannot be reached. "
                "Look at what it printed. Start all workers again with the same commands and "
                "--resume: the training goes on from its last saved state."
            ) from error

    def _lost_names(self, message: str) -> str:
        """Return which workers TensorFlow's message blames, as the beginning of a sentence."""
        tasks = {int(n) for n in re.findall(r"task:(\d+)", message)} - {self.cluster.task}
        names = [
            f"{n} ({self.cluster.addresses[n]})" for n in sorted(tasks) if n < len(self.cluster)
        ]
        return f"Worker {' or '.join(names)}" if names else "Another worker"

    # --- messages

    def from_chief(self, data: bytes) -> bytes:
        """Return the chief's bytes; those of other workers are not looked at."""
        mine = np.frombuffer(data if self.cluster.is_chief else b"", np.uint8)
        (length,) = self._sum(np.array([len(mine)], np.int32))
        parts = []
        for start in range(0, int(length), _CHUNK):
            part = np.zeros(min(_CHUNK, int(length) - start), np.int32)
            if self.cluster.is_chief:
                part[:] = mine[start : start + len(part)]
            parts.append(self._sum(part).astype(np.uint8))
        return b"".join(part.tobytes() for part in parts)

    def chief_says(self, flag: bool) -> bool:
        """Return the chief's flag; every worker must ask at the same moment of the training."""
        return bool(self._sum(np.array([flag and self.cluster.is_chief], np.int32))[0])

    def check_same(self, facts: dict[str, str]) -> None:
        """Check that all workers start from the same.

        Args:
            facts: what is compared, for example {"dataset": its fingerprint}.

        Raises:
            UserError: in every worker, if one of them differs from the chief.
        """
        theirs = json.loads(self.from_chief(json.dumps(facts).encode()))
        names = sorted(facts.keys() | theirs.keys())  # another version may compare other facts
        different = [
            f"{name} ({facts.get(name)}, not {theirs.get(name)})"
            for name in names if facts.get(name) != theirs.get(name)
        ]  # fmt: skip
        counts = np.zeros(len(self.cluster), np.int32)
        counts[self.cluster.task] = len(different)
        counts = self._sum(counts)
        if different:
            raise UserError(
                f"Worker {self.cluster.task} does not start from the same as the chief: "
                f"{', '.join(different)}. Give all workers the same command, data and version."
            )
        if counts.any():
            blamed = ", ".join(str(n) for n in np.flatnonzero(counts))
            raise UserError(
                f"Worker {blamed} does not start from the same as the others; its own message says "
                "what differs. Give all workers the same command, data and version."
            )

    def send_file(self, path: Path) -> None:
        """Write the chief's file to the same path of the other workers; nothing if it has none."""
        data = path.read_bytes() if self.cluster.is_chief and path.is_file() else b""
        data = self.from_chief(data)
        if data and not self.cluster.is_chief:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, data)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of the workers' values, int32 [n]."""
        with self.translated():
            total = self.strategy.reduce("SUM", tf.constant(values, tf.int32), axis=None)
            return total.numpy()

    # --- data

    def distribute(self, dataset: tf.data.Dataset) -> Any:
        """Return this worker's batches as Keras and the strategy take them.

        Args:
            dataset: elements are this worker's part of the global batches.
        """
        replicas = len(self.strategy.extended.worker_devices)

        @traced_as_written
        def split(*batch: Any) -> Any:
            def parts(x: tf.Tensor) -> tf.Tensor:
                return tf.reshape(x, [replicas, x.shape[0] // replicas, *x.shape[1:]])

            return tf.nest.map_structure(parts, batch)

        if replicas > 1:
            dataset = dataset.map(split).unbatch()
        return self.strategy.distribute_datasets_from_function(lambda _: dataset)

    def part(self, batch_size: int) -> Part:
        """Return which part of each global batch is this worker's."""
        size = batch_size // len(self.cluster)
        return Part(self.cluster.task * size, size, batch_size)

    def leave(self) -> None:
        """Tell the other workers that this one is done, so that they do not miss it."""
        context._reset_context()


def _handle_sigterm_again() -> None:
    """Give SIGTERM back to Python: the strategy has installed a handler that ignores it."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def prepare_model(model: keras.Model) -> None:
    """Let Keras build a model from the batches of a strategy (keras issue 20585)."""
    model._maybe_symbolic_build = types.MethodType(_symbolic_build, model)


def _symbolic_build(model: keras.Model, iterator: Any = None, data_batch: Any = None) -> None:
    """Build from the shapes of the first replica's part of a batch.

    Keras would read a batch, average the replicas' parts, and give the iterator up: TensorFlow ends
    with a segmentation fault where one is given up while batches are still being fetched.
    """
    if iterator is not None:
        data_batch = tf.nest.map_structure(
            lambda spec: spec._value_specs[0] if hasattr(spec, "_value_specs") else spec,
            iterator._get_iterator().element_spec,
        )
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=data_batch)


_reduce_per_replica: Callable | None = getattr(keras_trainer, "reduce_per_replica", None)


def _check_keras() -> None:
    """Check that Keras has the two functions that are replaced here: they are not its public API.

    Raises:
        UserError: it lacks one.
    """
    if _reduce_per_replica is None or not hasattr(keras.Model, "_maybe_symbolic_build"):
        raise UserError(
            "Training with several workers replaces two functions inside Keras, which Keras "
            f"{keras.__version__} does not have any more. Install keras 3.15."
        )


def _reduce_over_workers(values: Any, strategy: Any, reduction: str) -> Any:
    """Average the replicas' metrics, which are scalars; Keras would average their elements."""
    if reduction == "concat" or not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        assert _reduce_per_replica is not None  # `_check_keras`
        return _reduce_per_replica(values, strategy, reduction)
    return keras.tree.map_structure(lambda x: strategy.reduce("MEAN", x, axis=None), values)


def _job(workers: int) -> Any:
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob

    return CoordinatedJob(name="worker", num_tasks=workers)
