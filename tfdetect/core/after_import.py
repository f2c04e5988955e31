"""Call a function as soon as a module has been imported, by any code of the process."""

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = __name__.partition(".")[0]


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call `action` now if a module has been imported, or else once it has been imported.

    If a module of tfdetect imports it, `action` is called when the outermost of the modules of
    tfdetect that are being imported is complete, so that `action` may import any of them.

    Args:
        name: the name of a top-level module.
        action: what to call, once.
    """
    if sys.modules.get(name) is not None:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, action))


class _Finder:
    """A finder on `sys.meta_path` that delegates to the others and wraps the loading of one module.

    It removes itself when it calls the action. Finding a module is not enough for that: TensorFlow
    asks whether Keras can be found long before anything imports it.
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
