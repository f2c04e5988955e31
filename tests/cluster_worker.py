"""One worker of a small training on a cluster.

    python tests/cluster_worker.py FOLDER_OF_CLASSES WORK_FOLDER ADDRESSES TASK [KEY=VALUE ...]

Leaves the weights and the history in its work folder. A number as ADDRESSES trains so many replicas
in this process alone. A line "step N" is printed after each step, for tests that kill a worker.
Several work folders and tasks, with commas between, are workers that are forks of this process, so
that TensorFlow is imported once.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from tfdetect.core.process import command_process
from tfdetect.core.quiet import import_tensorflow

with command_process():  # as a command imports it, which takes half of the time
    import_tensorflow()

from conftest import fit_small, prepare_tensorflow

prepare_tensorflow()

import keras
import numpy as np

from tfdetect.core.cluster import Cluster
from tfdetect.core.errors import UserError
from tfdetect.training.devices import configure_devices


class Told(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)), flush=True)


def main(root: str, folder: str, addresses: str, task: str, *overrides: str) -> int:
    replicas = int(addresses) if addresses.isdecimal() else None
    cluster = None if replicas else Cluster(tuple(addresses.split(",")), int(task))
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append(True))
    try:
        devices = configure_devices(virtual=replicas, cluster=cluster)
        signal.raise_signal(signal.SIGTERM)
        assert received  # TensorFlow has not taken the signal away
        signal.signal(signal.SIGTERM, before)
        detector, state = fit_small(
            Path(root), Path(folder), list(overrides), devices, callbacks=[Told()]
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    np.savez(Path(folder) / "weights.npz", *detector.get_weights())
    (Path(folder) / "history.json").write_text(json.dumps(state.history))
    if devices.workers is not None and task != "0":
        devices.workers.leave()
    return 0


def start(root: str, folders: str, addresses: str, tasks: str, *overrides: str) -> int:
    """Run the workers; return the first exit code that is not 0."""
    if "," not in tasks:
        return main(root, folders, addresses, tasks, *overrides)
    import tfdetect.train_run  # noqa: F401  what all forks need

    children = []
    for folder, task in zip(folders.split(","), tasks.split(","), strict=True):
        children.append(os.fork())
        if not children[-1]:
            code = 1
            try:
                code = main(root, folder, addresses, task, *overrides)
            except BaseException:
                traceback.print_exc()
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next(filter(None, codes), 0)


if __name__ == "__main__":
    sys.exit(start(*sys.argv[1:]))
