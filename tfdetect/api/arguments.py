"""What the functions of the Python API take, brought into the form of the rooms below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfdetect.core.errors import shortened
from tfdetect.core.run import Run, open_run
from tfdetect.core.text import user_path

if TYPE_CHECKING:
    from tfdetect.data.plan import Plan

Log = Callable[[str], None]
Overrides = Mapping[str, Any] | Iterable[str]
RunLike = str | Path | Run


def override_texts(overrides: Overrides) -> list[str]:
    """Return overrides as `key=value` texts, as `--set` takes them."""
    import yaml

    if not isinstance(overrides, Mapping):
        return [overrides] if isinstance(overrides, str) else list(overrides)

    def text(value: Any) -> str:
        plain = list(value) if isinstance(value, tuple) else value
        plain = str(plain) if isinstance(plain, Path) else plain
        dumped = yaml.safe_dump(plain, default_flow_style=True, width=10**9)
        return dumped.strip().removesuffix("...").strip()

    return [f"{key}={text(value)}" for key, value in overrides.items()]


def plan_of(
    dataset: str | Path | None,
    experiment: str | Path | None,
    model: str | None,
    overrides: Overrides,
    data_dir: str | Path | None,
    authentic: str | None,
) -> Plan:
    """Resolve the arguments of `train` that name an experiment and its data."""
    from tfdetect.data.plan import make_plan

    return make_plan(
        text_of(dataset), text_of(experiment), override_texts(overrides), path_of(data_dir),
        authentic, model,
    )  # fmt: skip


def run_of(run: RunLike) -> Run:
    """Return a run, opened if its folder was given."""
    return run if isinstance(run, Run) else open_run(run)


def runs_of(runs: Sequence[RunLike]) -> list[Run]:
    """Return several runs, opened where folders were given; one alone is a list of one."""
    return [run_of(run) for run in ([runs] if isinstance(runs, str | Path | Run) else runs)]


def path_of(path: str | Path | None) -> Path | None:
    """Return a path, with ~ replaced."""
    if path is None:
        return None
    if not isinstance(path, str | Path):
        raise TypeError(f"A path is text or a pathlib.Path. Received: {shortened(path)}.")
    return user_path(path)


def text_of(value: str | Path | None) -> str | None:
    """Return a name or path as text."""
    return None if value is None else str(value)


def gpus_of(gpus: str | Sequence[int] | None) -> str | None:
    """Return numbers of GPUs as `--gpus` takes them."""
    if gpus is None or isinstance(gpus, str):
        return gpus
    return ",".join(map(str, gpus)) or "none"
