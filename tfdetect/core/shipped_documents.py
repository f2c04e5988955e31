"""Find YAML documents: those that come with the package, by name, and the user's own, by path."""

from pathlib import Path

from tfdetect.core.errors import UserError, unknown
from tfdetect.core.text import user_path


def package_folder(folder: str) -> Path:
    """Return a folder that comes with tfdetect, in a checkout or in an installed wheel.

    Args:
        folder: its name, such as "data_specs", "experiments" or "saved_models".
    """
    package = Path(__file__).resolve().parents[1]
    in_checkout = package.parent / folder
    if in_checkout.is_dir() and (package.parent / "setup.py").is_file():
        return in_checkout
    return package / folder


def shipped_names(folder: str) -> dict[str, Path]:
    """Return the shipped documents of a folder and of all folders below it, by name."""
    top = package_folder(folder)
    return {
        file.stem: file for file in sorted(top.rglob("*.yaml"))
        if "spaces" not in file.relative_to(top).parts  # search spaces are another kind of document
    }  # fmt: skip


def find_document(kind: str, folder: str, name: str) -> Path:
    """Return the file of a document.

    Args:
        kind: the word for such a document in messages, for example "experiment".
        folder: the folder of the shipped ones; see `package_folder`.
        name: the path of a YAML file, or the name of a shipped document.

    Raises:
        UserError: there is no such file or name.
    """
    path = user_path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise UserError(f"There is no {kind} file {name!r}. Check the path.")
    choices = shipped_names(folder)
    if name not in choices:
        error = unknown(kind, name, choices)
        beside = [file for suffix in (".yaml", ".yml") if Path(file := f"{name}{suffix}").is_file()]
        if beside:
            raise UserError(f"{error} A file is named with its suffix: {beside[0]}.")
        raise error
    return choices[name]
