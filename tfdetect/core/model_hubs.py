"""Runs on the hubs of Hugging Face and Kaggle: fetched by a fixed revision, and pushed.

    hf://USER/REPOSITORY[@REVISION]
    kaggle://USER/MODEL/FRAMEWORK/VARIATION[@VERSION]

Of what a hub offers, only files of `SAFE_FILES` are taken: none of them can contain code that is
run. A Keras model may consist of Keras's and tfdetect's own layers alone, and of no Lambda layers.
"""

import contextlib
import fnmatch
import importlib.util
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import yaml

from tfdetect.core import console
from tfdetect.core.caches import cache_dir
from tfdetect.core.errors import UserError, first_line
from tfdetect.core.files import staged, write_json
from tfdetect.core.parsing import read_object
from tfdetect.core.run_results import SplitResults
from tfdetect.core.text import printable

SAFE_FILES = (
    "run.json", "experiment.yaml", "ensemble.yaml", "dataset.yaml", "metrics.json", "history.csv",
    "skipped.csv", "README.md", "model_card.md", "domain.npy", "training_images.npy",
    "cross_fitting.npy", "model.keras", "detector.onnx", "exports/exports.json",
    "exports/detector.keras",
    "exports/detector.onnx", "exports/detector_float16.onnx", "exports/detector*.tflite",
)  # fmt: skip
SOURCE_FILE = "source.json"  # of a fetched run: where it comes from, with its revision
_ADDRESS = re.compile(r"(hf|kaggle):/{1,2}(?P<path>[^@]*)(?:@(?P<revision>.*))?", re.DOTALL)
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_EXAMPLES = {"hf": "hf://user/run", "kaggle": "kaggle://user/model/keras/variation"}
_PACKAGES = {"hf": "huggingface_hub", "kaggle": "kagglehub"}
_KERAS_FILES = {"metadata.json", "config.json", "model.weights.h5"}
_MODULES = {"keras", "tfdetect", "builtins"}  # whose classes a Keras model may name
_SECRET_VARIABLES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "WANDB_API_KEY",
    "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD",
)  # fmt: skip
_SECRETS = re.compile(
    r"hf_\w+|(?i:bearer|basic)\s+\S+|(?<=[?&])[^=\s]*(?i:token|key|sig)[^=\s]*=[^&\s]+"
)


@dataclass(frozen=True)
class HubAddress:
    """Where a run is on a hub.

    Attributes:
        hub: "hf" or "kaggle".
        path: path of the repository on the hub.
        revision: branch, tag, commit or version; none for the newest one.
    """

    hub: str
    path: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> "HubAddress | None":
        """Return the hub address that a text or path contains; None if it contains none.

        Raises:
            UserError: it is one of a hub, but not complete.
        """
        text = os.fspath(text)
        match = _ADDRESS.fullmatch(text)
        if match is None:
            return None
        hub, path, revision = match[1], match["path"].strip("/"), match["revision"]
        parts = path.split("/")
        good = all(_PART.fullmatch(part) and ".." not in part for part in parts)
        if revision is not None:
            good &= all(_PART.fullmatch(part) is not None for part in revision.split("/"))
            good &= hub == "hf" or revision.isdecimal()
        if not good or len(parts) != (2 if hub == "hf" else 4):
            raise UserError(
                f"{printable(text)!r:.200} is not the address of a run. Write {_EXAMPLES[hub]} or "
                f"{_EXAMPLES[hub]}@{'REVISION' if hub == 'hf' else 'VERSION'}."
            )
        return cls(hub, path, revision)

    def __str__(self) -> str:
        return f"{self.hub}://{self.path}{f'@{self.revision}' if self.revision else ''}"


def fetch_run(address: HubAddress) -> Path:
    """Return the folder of a run of a hub, which is downloaded into the cache if it is not there.

    The revision is resolved to a commit or version first, and written into `source.json`.
    A run whose address has a commit is not asked for again.

    Raises:
        UserError: the hub's package is missing, or it does not answer, has no such run, or one
            with a model that is not safe.
    """
    fetch = {"hf": _fetch_hugging_face, "kaggle": _fetch_kaggle}[address.hub]
    with _messages(address):
        folder, fixed = fetch(address)
    console.log(f"{fixed} in {folder}")
    return folder


def is_fetched(run: Path) -> bool:
    """Return whether the folder of a run is the cache's copy of one on a hub."""
    return run.resolve().is_relative_to(_cache().resolve())


def source_of(run: Path) -> str | None:
    """Return the address that a run was fetched from, with its commit or version."""
    file = run / SOURCE_FILE
    return str(read_object(file).get("source")) if file.is_file() else None


def _cache() -> Path:
    return cache_dir() / "runs"


def _cached(fixed: HubAddress) -> Path:
    """Return the folder in the cache of a run at a fixed revision; its last part names the run."""
    assert fixed.revision is not None
    *above, name = fixed.path.split("/")
    return _cache().joinpath(fixed.hub, *above, f"{name}@{fixed.revision[:12]}", name)


def _keep(files: Path, fixed: HubAddress) -> Path:
    """Copy the safe files of a folder into the cache, after a check."""
    folder = _cached(fixed)
    names = [path for path in safe_files(files) if not (files / path).is_dir()]
    if "run.json" not in names:
        raise UserError(f"{fixed} is no run of tfdetect: it has no run.json.")
    check_keras_files(files, str(fixed))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged(folder) as new:
        for name in names:
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files / name, target)
        write_json(new / SOURCE_FILE, {"source": str(fixed)})
    return folder


def safe_files(folder: Path) -> list[str]:
    """Return the files of a folder that may be fetched or pushed, relative to it, sorted."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if _is_safe(path))


def _is_safe(path: str) -> bool:
    return any(
        PurePosixPath(path).parent == PurePosixPath(pattern).parent
        and fnmatch.fnmatchcase(path, pattern)
        for pattern in SAFE_FILES
    )


def check_keras_files(folder: Path, what: str) -> None:
    """Check the Keras files of a run that may be fetched or pushed; see `check_keras_file`."""
    for name in safe_files(folder):
        if name.endswith(".keras"):
            check_keras_file(folder / name, what)


def check_keras_file(path: Path, what: str) -> None:
    """Check that a Keras file has no code in it and names no classes but Keras's and tfdetect's.

    Raises:
        UserError: it does, or it is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            more = set(archive.namelist()) - _KERAS_FILES
            if more:
                raise UserError(
                    f"{what}: {path.name} contains {printable(min(more))}, and may contain only "
                    f"{', '.join(sorted(_KERAS_FILES))}. It is not loaded."
                )
            config = json.loads(archive.read("config.json"))
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile) as error:
        raise UserError(f"{what}: {path.name} is damaged: {printable(error)}") from error
    for each in _objects(config):
        module, name = str(each.get("module")), str(each.get("class_name"))
        if name in ("Lambda", "__lambda__", "function", "TorchModuleWrapper", "TFSMLayer") or (
            each.get("module") is not None and module.partition(".")[0] not in _MODULES
        ):
            raise UserError(
                f"{what}: {path.name} contains {printable(f'{module}.{name}')}, which can run any "
                "code. It is not loaded. An ONNX export can be loaded: ask its author for one."
            )


def _objects(config: Any) -> Iterator[dict]:
    """Yield the dictionaries of a Keras configuration that name a class."""
    waiting = [config]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if "class_name" in each:
                yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _fetch_hugging_face(address: HubAddress) -> tuple[Path, HubAddress]:
    if address.revision is not None and _COMMIT.fullmatch(address.revision):
        folder = _cached(address)
        if (folder / SOURCE_FILE).is_file():
            return folder, address
    hub = _package("hf")
    commit = hub.HfApi().model_info(address.path, revision=address.revision).sha
    if not _COMMIT.fullmatch(commit or ""):
        raise UserError(f"{address}: the hub names no commit.")
    fixed = HubAddress("hf", address.path, commit)
    folder = _cached(fixed)
    if not (folder / SOURCE_FILE).is_file():
        files = hub.snapshot_download(
            address.path, revision=commit, allow_patterns=list(SAFE_FILES), library_name="tfdetect"
        )
        _keep(Path(files), fixed)
    return folder, fixed


def _fetch_kaggle(address: HubAddress) -> tuple[Path, HubAddress]:
    if address.revision is not None and (_cached(address) / SOURCE_FILE).is_file():
        return _cached(address), address
    hub = _package("kaggle")
    version = f"/{address.revision}" if address.revision else ""
    files = Path(hub.model_download(address.path + version))
    if not files.name.isdecimal():
        raise UserError(f"{address}: Kaggle names no version.")
    fixed = HubAddress("kaggle", address.path, files.name)
    return _keep(files, fixed), fixed


def push_files(
    folder: Path, address: HubAddress, private: bool, license_name: str | None
) -> HubAddress:
    """Upload the safe files of a folder, and return their address with its revision.

    Args:
        folder: folder with a README.md.
        address: address of the repository, which is created if it does not exist; its revision is
            a branch.
        private: whether a new repository is private.
        license_name: license of the model, for Kaggle.

    Raises:
        UserError: the hub's package is missing, or the hub does not accept it.
    """
    with _messages(address):
        hub = _package(address.hub)
        if address.hub == "kaggle":
            if address.revision is not None:
                raise UserError("Kaggle numbers the versions itself: leave out what follows @.")
            hub.model_upload(address.path, str(folder), license_name)
            return address
        api = hub.HfApi()
        api.create_repo(address.path, private=private, exist_ok=True)
        if address.revision is not None:
            api.create_branch(address.path, branch=address.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=address.path, folder_path=folder, revision=address.revision,
            allow_patterns=list(SAFE_FILES), commit_message="Upload a run of tfdetect",
        )  # fmt: skip
        return HubAddress("hf", address.path, commit.oid)


def card_header(name: str, results: SplitResults, dataset: str, license_name: str | None) -> str:
    """Return the YAML header that Hugging Face reads from a model card.

    Args:
        name: name of the run.
        results: the content of its metrics.json.
        dataset: name of the dataset that it was measured on.
        license_name: license of the model, as Hugging Face calls it, such as "mit"; None to name
            none.
    """
    found = []
    for split, part in results.items():
        metrics = [
            {
                "type": "roc_auc" if metric == "auc" else metric,
                "name": f"{metric}, 95% interval {value['low']:.3f} to {value['high']:.3f}"
                if value["low"] is not None else metric,
                "value": value["value"],
            }
            for metric, value in part.get("metrics", {}).items()
            if value["value"] is not None
        ]  # fmt: skip
        if metrics:
            found.append({
                "task": {"type": "image-classification"},
                "dataset": {"type": dataset, "name": dataset, "split": split},
                "metrics": metrics,
            })  # fmt: skip
    header: dict[str, Any] = {
        "library_name": "tfdetect",
        "pipeline_tag": "image-classification",
        "tags": ["image-forensics", "deepfake-detection", "keras", "onnx"],
    }
    if license_name is not None:
        header["license"] = license_name
    if found:
        header["model-index"] = [{"name": name, "results": found}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _package(hub: str) -> ModuleType:
    name = _PACKAGES[hub]
    if importlib.util.find_spec(name) is None:
        raise UserError(f"Addresses that begin with {hub}:// need: pip install {name}")
    return importlib.import_module(name)


@contextlib.contextmanager
def _messages(address: HubAddress) -> Iterator[None]:
    """Turn errors of the hubs' packages into `UserError`s without secrets."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each package, and each of its transports, has kinds of its own
        kind = type(error).__name__
        reason = printable(without_secrets(first_line(error)))
        hint = {
            "RepositoryNotFoundError": "It does not exist, or is private and you are not logged "
            "in: hf auth login",
            "RevisionNotFoundError": f"There is no revision {address.revision}",
            "GatedRepoError": "Its owner must give you access first",
            "ConnectError": f"The hub cannot be reached ({reason:.200}). Check the network; behind "
            "a proxy set HTTPS_PROXY, for a mirror HF_ENDPOINT",
        }.get(kind, f"{kind}: {reason:.300}")
        raise UserError(f"{address}: {hint}.") from None


def without_secrets(text: str) -> str:
    """Return a text from a hub's or tracker's package without tokens and signatures."""
    for name in _SECRET_VARIABLES:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return _SECRETS.sub("***", text)
