"""Calls a function once a module is imported, by whomever."""

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call `action` now if a module is imported, otherwise when it will be.

    Where a module of this package imports it, `action` waits until the outermost of the modules of
    this package that are being imported is complete: `action` may import any of them.

    Args:
        name: the name of a top-level module.
        action: what to call, once.
    """
    if sys.modules.get(name) is not None:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder:
    """Finds modules as they would be found without this finder, until the action has been called.

    To be found is not to be imported: TensorFlow asks whether Keras is there, before it, or
    another package, imports it.
    """

    def __init__(self, name: str, action: Callable[[], None]):
        self._name, self._action = name, action
        self._imported = False
        self._thread = threading.local()  # `depth`: modules of this package that it is importing

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        ours = name.startswith(f"{_PACKAGE}.")
        if name != self._name and not ours:
            return None
        others = (each for each in sys.meta_path if each is not self)
        found = (each.find_spec(name, path, target) for each in others)
        spec = next((each for each in found if each is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                depth = getattr(self._thread, "depth", 0)
                self._thread.depth = depth + ours
                try:
                    execute(module)
                finally:
                    self._thread.depth = depth
                self._imported |= not ours
                if self._imported and depth == 0 and self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self._action()

            spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec
