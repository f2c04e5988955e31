"""Calls a function once a module is imported by somebody else's code."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call `action` now if a module is imported, otherwise when it will be.

    Where this package imports the module first, `action` is not called: modules of ours that are
    half imported could not be imported by it.

    Args:
        name: the name of a top-level module.
        action: what to call.
    """
    if sys.modules.get(name) is not None:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder:
    """Finds a module as it would be found without this finder, until the module is imported.

    To be found is not to be imported: TensorFlow asks whether Keras is there, before it, or
    another package, imports it.
    """

    def __init__(self, name: str, action: Callable[[], None]):
        self._name, self._action = name, action

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        spec = self._find_without_this(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                ours = _we_import()
                execute(module)
                if not ours:
                    self._action()

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec

    def _find_without_this(self, name: str) -> ModuleSpec | None:
        sys.meta_path.remove(self)
        try:
            return importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)


def _we_import() -> bool:
    """Return whether code of this package is among the callers."""
    package = __name__.partition(".")[0]
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == package:
            return True
        frame = frame.f_back
    return False
