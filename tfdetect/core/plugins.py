"""Loads parts of the user's own: Python files or modules that register them.

A plug-in is a Python file or an importable module that calls `register_backbone` and its sisters.
It is loaded in one of four ways:

- an experiment that the user trains names it: `plugins: [path/to/my_layers.py]`;
- the environment variable TFDETECT_PLUGINS lists it (several are separated as in PATH);
- an installed package offers it as an entry point, in the group `tfdetect.backbones`,
  `tfdetect.heads`, `tfdetect.mask_heads`, `tfdetect.front_ends`, `tfdetect.losses` or
  `tfdetect.augmentations`;
- a program imports it before it uses tfdetect.

Options in an experiment are checked by the signature of the function that takes them: an annotation
such as `Annotated[float, pydantic.Field(ge=0, le=1)]` refuses values that are out of range.

A run records the plug-ins of its experiment but never executes them by itself, because a run may
come from a stranger: whoever opens one that needs a plug-in names it in TFDETECT_PLUGINS.
"""

import hashlib
import importlib
import importlib.util
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import AfterValidator

from tfdetect.core.entries import Registry
from tfdetect.core.errors import UserError, nearest
from tfdetect.core.plugin_faults import importing
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.text import user_path

VARIABLE = "TFDETECT_PLUGINS"


def load_plugin(source: str | os.PathLike[str]) -> str:
    """Import a plug-in, once per process; processes that are started from here know it, too.

    Args:
        source: path of a Python file, or the name of a module.

    Returns:
        The absolute path, or the module's name.

    Raises:
        UserError: there is no such file or module, or it cannot be imported.
    """
    identity = _identity(os.fspath(source))
    if not is_loaded(identity):
        _import(identity)
    listed = _listed()
    if identity not in listed:
        os.environ[VARIABLE] = os.pathsep.join([*listed, identity])
    return identity


def load_listed() -> None:
    """Import the plug-ins that TFDETECT_PLUGINS lists."""
    for source in _listed():
        load_plugin(source)


def registered(names: Registry[Any], *more: str) -> AfterValidator:
    """Return the check of a name in a document, which must be registered or be one of some more."""

    def check(name: str) -> str:
        load_listed()
        available = sorted([*names, *more])
        if name not in available:
            raise ValueError(
                f"no such name.{nearest(name, available)} Available: {', '.join(available)}"
            )
        return name

    return AfterValidator(check)


def check_loaded(sources: Iterable[str]) -> None:
    """Check that the plug-ins of a recorded experiment are loaded.

    Raises:
        UserError: some are not; the message names all of them and says how to load them.
    """
    load_listed()
    missing = [source for source in sources if not is_loaded(source)]
    if missing:
        one = len(missing) == 1
        listed = dict.fromkeys(map(_identity, _listed()))  # each once, by its absolute path
        wanted = shlex.quote(os.pathsep.join([*listed, *missing]))
        raise UserError(
            f"The {'plug-in' if one else 'plug-ins'} {', '.join(map(repr, missing))} "
            f"{'is' if one else 'are'} needed and not loaded. {'It is' if one else 'They are'} "
            f"Python code that runs with your rights. If you trust {'it' if one else 'them'}, set "
            f"{VARIABLE}={wanted}, or in a program import {'it' if one else 'them'} first."
        )


def is_loaded(source: str) -> bool:
    """Return whether a plug-in was imported by this process, by name or by its file's place."""
    if not source.endswith(".py"):
        return source in sys.modules
    if _module_name(Path(source)) in sys.modules:
        return True
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return source in files


def _listed() -> list[str]:
    return [source for source in os.environ.get(VARIABLE, "").split(os.pathsep) if source]


def _identity(source: str) -> str:
    """Return the absolute path of a file, or the name of a module."""
    if not source.endswith(".py"):
        return source
    path = user_path(source).resolve()
    if not path.is_file():
        raise UserError(f"There is no plug-in file {source!r} (looked for {path}).")
    return str(path)


def _module_name(path: Path) -> str:
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return f"tfdetect_plugin_{path.stem}_{digest}"


def _import(identity: str) -> ModuleType:
    import_tensorflow()  # quietly, and with the backend that is needed: a plug-in imports Keras
    if not identity.endswith(".py"):
        with importing(f"The plug-in {identity!r}", identity):
            try:
                return importlib.import_module(identity)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{identity}.".startswith(f"{error.name}."):
                    raise  # of something that the plug-in imports
                raise UserError(
                    f"There is no plug-in module {identity!r}. Name an importable module, or a "
                    "file that ends in .py."
                ) from error
    name = _module_name(Path(identity))
    spec = importlib.util.spec_from_file_location(name, identity)
    if spec is None or spec.loader is None:
        raise UserError(f"{identity!r} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importing(f"The plug-in {identity!r}", name):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
