"""What the functions of the Python API take, brought into the form of the rooms below."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.core.addresses import address_of
from tfdetect.core.errors import UserError, UserTypeError, shortened
from tfdetect.core.open_run import open_run
from tfdetect.core.run import Run
from tfdetect.core.shipped_runs import own_folder
from tfdetect.core.spark_cluster import SparkCluster
from tfdetect.core.text import user_path

if TYPE_CHECKING:
    from tfdetect.data.plan import Plan
    from tfdetect.spark.dataset_jobs import DatasetJobs

Overrides = Mapping[str, Any] | Iterable[str]
RunLike = str | Path | Run


def plain(value: Any) -> Any:
    """Return a value with NumPy's numbers and arrays, tuples and paths as YAML has them."""
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as `key=value` texts, as `--set` takes them."""
    import yaml

    if not isinstance(overrides, Mapping):
        texts = [overrides] if isinstance(overrides, str) else list(overrides)
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise UserTypeError(
                'Overrides are a mapping such as {"training.epochs": 5}, or texts such as '
                f'"training.epochs=5". Received: {shortened(wrong[0])}.'
            )
        return texts

    def text(value: Any) -> str:
        try:
            dumped = yaml.safe_dump(plain(value), default_flow_style=True, width=10**9)
        except yaml.YAMLError:
            raise UserTypeError(
                "The value of an override is text, a number, a list or a mapping. Received: "
                f"{shortened(value)}, of type {type(value).__name__}."
            ) from None
        return dumped.strip().removesuffix("...").strip()

    return [f"{key}={text(value)}" for key, value in overrides.items()]


def plan_of(
    dataset: str | Path | None,
    experiment: str | Path | None,
    model: str | None,
    overrides: Overrides,
    data_dir: str | Path | None,
    authentic: str | None,
    from_run: RunLike | None = None,
    replay: float | None = None,
) -> Plan:
    """Resolve the arguments of `train` that name an experiment and its data."""
    from tfdetect.data.plan import make_plan

    return make_plan(
        text_of(dataset), text_of(experiment), override_texts(overrides), path_of(data_dir),
        authentic, model, run_of(from_run).path if from_run else None, replay,
    )  # fmt: skip


def run_of(run: RunLike) -> Run:
    """Return a run, opened if its folder was given."""
    return run if isinstance(run, Run) else open_run(run)


def own_run(run: RunLike, output: str | Path | None = None) -> Run:
    """Return a run that results are written into, if `output` is no other folder for them.

    A run of the installed package, or of a hub, is copied first (`core.shipped_runs`).
    """
    given, run = run, run_of(run)
    if output is not None or (own := own_folder(run.path)) == run.path:
        return run
    return replace(run, path=own) if given is run else open_run(own)


def runs_of(runs: RunLike | Sequence[RunLike]) -> list[Run]:
    """Return several runs, opened where folders were given; one alone is a list of one."""
    if not isinstance(runs, str | Path | Run | Iterable):
        raise UserTypeError(f"Runs are folders or runs. Received: {shortened(runs)}.")
    return [run_of(run) for run in ([runs] if isinstance(runs, str | Path | Run) else runs)]


def path_of(path: str | Path | None) -> Path | None:
    """Return a path, with ~ replaced."""
    return None if path is None else user_path(path)


def text_of(value: str | Path | None) -> str | None:
    """Return a name or path as text."""
    return None if value is None else str(value)


@contextmanager
def writing_on(
    cluster: SparkCluster | None, output: Path, roots: Mapping[str, Path], progress: bool
) -> Iterator[DatasetJobs | None]:
    """Yield what reads and writes files on the machines of a cluster; None without one.

    Args:
        cluster: its folder for parts is by default `output` with the ending .parts.
        output: what is written.
        roots: folders that are read.
        progress: whether to show progress.

    Raises:
        UserError: the output is no folder that the machines could see.
    """
    if cluster is None:
        yield None
        return
    if address_of(output) is not None:
        raise UserError("On a cluster the output is a folder that all machines see, no address.")
    from tfdetect.spark.dataset_jobs import dataset_jobs

    output = output.absolute()
    folder = cluster.folder or output.with_name(f"{output.name}.parts")
    with dataset_jobs(cluster, folder, roots, progress) as jobs:
        yield jobs


def gpus_of(gpus: str | Sequence[int] | None) -> str | None:
    """Return numbers of GPUs as `--gpus` takes them."""
    if gpus is None or isinstance(gpus, str):
        return gpus
    return ",".join(map(str, gpus)) or "none"
