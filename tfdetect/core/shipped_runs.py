"""The runs that come with tfdetect: their names and folders."""

from pathlib import Path
from typing import TypeVar

from tfdetect.core import console
from tfdetect.core.errors import UserError
from tfdetect.core.files import copy_folder, staged
from tfdetect.core.image_names import is_image
from tfdetect.core.model_hubs import is_fetched, source_of
from tfdetect.core.packages import has_tensorflow
from tfdetect.core.shipped_documents import package_folder
from tfdetect.core.walk import Walk

PHOTO_DETECTOR, LOCALIZER = "photo_detector", "localizer_photos"
SMALL_IMAGES = "cifake_small_resnet"
SHIPPED = (PHOTO_DETECTOR, LOCALIZER, SMALL_IMAGES)
SMALL_SIDE = 64  # pixels: images of which no side is as long are no photographs
RunPath = TypeVar("RunPath", bound=str | Path)


def suited(size: tuple[int, int]) -> str:
    """Return the name of the shipped detector of generated images that suits an image.

    Args:
        size: width and height in pixels.
    """
    return SMALL_IMAGES if max(size) < SMALL_SIDE else PHOTO_DETECTOR


def run_folder(run: RunPath) -> RunPath | Path:
    """Return the folder of a shipped run if `run` is its name; return anything else unchanged.

    A run at this path, or at saved_models/NAME below the current directory, takes precedence.
    Another folder or file of that name does not.
    """
    name = str(run).removeprefix("saved_models/")
    if name not in SHIPPED or holds_run(Path(run)):
        return run
    own = Path("saved_models", name)
    return own if (own / "run.json").is_file() else shipped_folder(name)


def holds_run(folder: Path) -> bool:
    """Return whether a folder has files of a run, which may be damaged."""
    return any((folder / name).exists() for name in ("run.json", "experiment.yaml", "model.keras"))


def run_containing(path: Path) -> Path | None:
    """Return the run that a file or folder is a part of, unless it is an image or contains some.

    Parts are run.json, model.keras, exports/detector.onnx or saved_model/, for example.
    """
    if not path.exists() or is_image("", str(path)):
        return None
    run = next((above for above in path.parents if (above / "run.json").is_file()), None)
    has_images = path.is_dir() and any(is_image(str(path), file) for file in Walk(path).paths())
    return None if has_images else run


def shipped_folder(name: str) -> Path:
    """Return the folder of a shipped run: of the package, or below the current directory.

    Raises:
        UserError: this installation has no such run.
    """
    for folder in (package_folder("saved_models") / name, Path("saved_models", name)):
        if (folder / "run.json").is_file():
            return folder
    raise UserError(
        f"This installation lacks the detector {name}. 'pip install tfdetect' brings all of them. "
        "Or name another run."
    )


def own_folder(run: Path) -> Path:
    """Return the folder of a run that may be changed.

    A run inside of an installed package belongs to the package, and a run in the cache is what a
    hub has. Either is copied to saved_models/NAME; a shipped run's name finds it there from then
    on.

    Raises:
        UserError: another run than the hub's is there.
        ModuleNotFoundError: this is tfdetect-light, in which no command changes a run.
    """
    package, root = Path(__file__).resolve().parents[1], package_folder("saved_models").resolve()
    installed = run.resolve().parent == root and root.is_relative_to(package)
    of_hub = is_fetched(run)
    if not installed and not of_hub:
        return run
    if not has_tensorflow():  # before a copy is left behind by a command that cannot go on
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
    own = Path("saved_models", run.name)
    if not (own / "run.json").is_file():
        with staged(own) as folder:
            folder.rmdir()
            copy_folder(run, folder)
    elif of_hub and source_of(own) != source_of(run):
        raise UserError(
            f"Results for {source_of(run)} belong into a copy of it, {own}, which is another run. "
            "Rename that one, or work in another folder."
        )
    whose = f"{source_of(run)} is in the cache" if of_hub else f"{run.name} comes with tfdetect"
    console.log(f"{whose} and is not changed; results go to {own}")
    return own
