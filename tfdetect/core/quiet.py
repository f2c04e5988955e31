"""Keep messages of C++ libraries away from the user's terminal."""

import gc
import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType

from tfdetect.core.packages import has_tensorflow, missing_package
from tfdetect.core.process import deferred_signals, is_command

# TensorFlow and Keras import these where they are installed, for features that no command uses;
# without them the import takes two fifths less time and a fifth less memory. Programs of the user
# may use such a feature, and Keras looks for its package only once.
_OPTIONAL = ("IPython", "cv2", "matplotlib", "pandas", "scipy", "sklearn")


def import_tensorflow() -> None:
    """Import TensorFlow and Keras silently; if that fails, show what they printed.

    Raises:
        UserError: TensorFlow is not installed.
    """
    if sys.modules.get("tensorflow") is not None:
        return
    if not has_tensorflow():
        raise missing_package(ModuleNotFoundError(name="tensorflow")) or AssertionError
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # TensorFlow uses these kernels by default on some processors only; training is about 1.5 times
    # as fast with them on others, too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with silent_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import absl.logging

        in_part = _without_optional() if is_command() else nullcontext()
        with in_part, _without_garbage_collection():
            import keras  # noqa: F401
            import tensorflow as tf

        if is_command():  # what was imported stays to the end, where collecting it takes seconds
            gc.freeze()
        tf.get_logger().setLevel("ERROR")
        absl.logging.set_verbosity(absl.logging.ERROR)


def import_onnxruntime() -> ModuleType:
    """Return the module `onnxruntime`, with its telemetry turned off.

    At its import ONNX Runtime would write a number of this machine and a database of events below
    the home directory, for a client that sends events to its maker. The variable counts at the
    import only; if it is set to 0, ONNX Runtime does as it does by itself.

    Raises:
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Hold back what is written to stderr in this context; show it only after an exception.

    C++ libraries write to the file descriptor, some before any log level takes effect, so the
    descriptor is redirected, for all threads.
    """
    sys.stderr.flush()
    with deferred_signals(), tempfile.TemporaryFile() as noise:
        saved = os.dup(2)
        os.dup2(noise.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            if failed:
                noise.seek(0)
                sys.stderr.buffer.write(noise.read())


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Look for no garbage meanwhile: what is imported stays, and the search takes a fifth of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _without_optional() -> Iterator[None]:
    """Hide optional packages from imports in this context; later imports find them."""
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # makes its import fail
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
