"""Which processes train one detector together, from flags or the environment."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tfdetect.core.errors import UserError, shortened

SLURM = "slurm"  # what --cluster takes in place of addresses
_SLURM_PORTS = range(20_000, 30_000)  # of the workers' first one, by the number of the job
_HOSTS = re.compile(r"([^,\[\]]+)(?:\[([0-9,-]+)\])?(?:,|$)")
_COUNTS = re.compile(r"(\d+)(?:\(x(\d+)\))?(?:,|$)")
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
        cluster: "host1:port,host2:port", or "slurm" in a step of a Slurm job.
        task: number of this process's worker.
        environment: the environment of the process; its TF_CONFIG is used where there are no flags.

    Returns:
        None for a training in one process.

    Raises:
        UserError: an address or a number that is not legal.
    """
    if cluster is None and task is not None:
        raise UserError("--task names one of the workers of --cluster, which is missing.")
    if cluster is None:
        return _from_tf_config(environment.get("TF_CONFIG", ""))
    if cluster == SLURM:
        if task is not None:
            raise UserError("--cluster slurm knows its task from Slurm. Leave --task out.")
        return _from_slurm(environment)
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


def _from_slurm(environment: Mapping[str, str]) -> Cluster | None:
    """Return the tasks of a step of a Slurm job, from the variables that `srun` sets.

    TensorFlow's SlurmClusterResolver reads the same ones, but sorts the hosts by name, which is not
    the order of the tasks on n[9-10], and cannot work without GPUs.
    """
    names = ("PROCID", "STEP_NODELIST", "STEP_TASKS_PER_NODE", "JOB_ID")
    values = [environment.get(f"SLURM_{name}", "") for name in names]
    if missing := [name for name, value in zip(names, values) if not value]:
        raise UserError(
            f"--cluster slurm is for a step of a Slurm job: SLURM_{missing[0]} is not set. Start "
            "it with: srun --ntasks-per-node 1 python -m tfdetect.train ... --cluster slurm"
        )
    number, hosts, counts, job = values
    found, tasks = slurm_hosts(hosts), slurm_counts(counts)
    if not (number.isdecimal() and job.isdecimal() and found and len(found) == len(tasks)):
        raise UserError(
            f"Slurm's variables are not understood: {shortened(dict(zip(names, values)))}. Name "
            "the workers: --cluster host1:port,host2:port --task N."
        )
    order = environment.get("SLURM_DISTRIBUTION", "block")
    if max(tasks) > 1 and not order.startswith("block"):
        raise UserError(
            f"--cluster slurm needs tasks that are numbered host by host, not {order}. Add "
            "--distribution=block to srun."
        )
    first = _SLURM_PORTS[int(job) * 16 % len(_SLURM_PORTS)]
    addresses = [f"{host}:{first + n}" for host, count in zip(found, tasks) for n in range(count)]
    return _checked(tuple(addresses), int(number), "--cluster slurm")


def slurm_hosts(text: str) -> list[str]:
    """Return the hosts of a list such as "n[08-10,12],login"; [] for any other text."""
    hosts, end = [], 0
    for match in _HOSTS.finditer(text):
        if match.start() != end:
            return []
        end, prefix, ranges = match.end(), match[1], match[2]
        for part in ranges.split(",") if ranges else [""]:
            low, _, high = part.partition("-")
            if not ranges:
                hosts.append(prefix)
            elif low.isdecimal() and (high or low).isdecimal():
                numbers = range(int(low), int(high or low) + 1)
                hosts += [f"{prefix}{number:0{len(low)}d}" for number in numbers]
            else:
                return []
    return hosts if end == len(text) else []


def slurm_counts(text: str) -> list[int]:
    """Return the tasks on each host from a text such as "2(x3),1"; [] for any other text."""
    found = list(_COUNTS.finditer(text))
    if "".join(match[0] for match in found) != text:
        return []
    return [int(match[1]) for match in found for _ in range(int(match[2] or 1))]


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
