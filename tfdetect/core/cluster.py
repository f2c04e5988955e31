"""Which processes train one detector together, from flags or the environment."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tfdetect.core.errors import UserError, shortened

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*):([0-9]{1,5})")


@dataclass(frozen=True)
class Cluster:
    """The worker processes of a training on several machines.

    Attributes:
        addresses: host:port of each worker; the first is the chief, which writes the run.
        task: number of this process's worker, from 0.
    """

    addresses: tuple[str, ...]
    task: int

    @property
    def is_chief(self) -> bool:
        return self.task == 0

    def __len__(self) -> int:
        return len(self.addresses)

    def tf_config(self) -> str:
        """Return the value of TF_CONFIG that tells TensorFlow the same."""
        return json.dumps(
            {
                "cluster": {"worker": list(self.addresses)},
                "task": {"type": "worker", "index": self.task},
            }
        )


def parse_cluster(
    cluster: str | None, task: int | None, environment: Mapping[str, str]
) -> Cluster | None:
    """Return the cluster that --cluster and --task, or else TF_CONFIG, describe.

    Args:
        cluster: "host1:port,host2:port".
        task: number of this process's worker.
        environment: of the process; its TF_CONFIG is used where there are no flags.

    Returns:
        None for a training in one process.

    Raises:
        UserError: an address or a number that is not legal.
    """
    if cluster is None and task is not None:
        raise UserError("--task names one of the workers of --cluster, which is missing.")
    if cluster is None:
        return _from_tf_config(environment.get("TF_CONFIG", ""))
    if task is None:
        raise UserError(
            "--cluster needs --task N: which of its workers this process is, from 0. Start the "
            "same command on each machine with another --task, or several local processes with "
            "python -m tfdetect.launch."
        )
    return _checked(tuple(part.strip() for part in cluster.split(",")), task, "--cluster")


def _from_tf_config(text: str) -> Cluster | None:
    if not text.strip():
        return None
    try:
        document = json.loads(text)
        jobs, task = document.get("cluster", {}), document.get("task", {})
        addresses = [*jobs.get("chief", ()), *jobs.get("worker", ())]
        number = int(task.get("index", 0))
        if task.get("type") == "worker":
            number += len(jobs.get("chief", ()))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG is not a document as TensorFlow describes it: {shortened(text)}."
        ) from error
    if not addresses:
        return None
    if others := sorted(set(jobs) - {"chief", "worker"}):
        raise UserError(
            f"TF_CONFIG names jobs that take no part in a training: {', '.join(others)}. "
            "Only chief and worker are used."
        )
    return _checked(tuple(map(str, addresses)), number, "TF_CONFIG")


def _checked(addresses: tuple[str, ...], task: int, where: str) -> Cluster | None:
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[2]) < 2**16:
            raise UserError(
                f"{where} takes addresses such as 10.0.0.1:7000,10.0.0.2:7000. "
                f"Received: {shortened(address)}."
            )
    if len(set(addresses)) < len(addresses):
        raise UserError(f"{where} names the same address twice: {', '.join(addresses)}.")
    if not 0 <= task < len(addresses):
        raise UserError(
            f"{where} has {len(addresses)} workers, so the task is a number from 0 to "
            f"{len(addresses) - 1}. Received: {task}."
        )
    return Cluster(addresses, task) if len(addresses) > 1 else None
