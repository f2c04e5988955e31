"""Imports TensorFlow without its start-up noise on the user's terminal."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Keras imports them where they are installed, for features that no command uses: a third of
# the time and a fifth of the memory.
_OPTIONAL = ("matplotlib", "pandas", "sklearn")


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras silently; what they print is shown if they fail.

    The C++ libraries write to the file descriptor before any log level is in
    force, so that descriptor is turned away during the import.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # TensorFlow takes these kernels by itself on some processors only; on others too, training
    # is about 1.5 times as fast with them.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as noise:
        saved = os.dup(2)
        os.dup2(noise.fileno(), 2)
        failed = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import absl.logging

                with _left_out():
                    import keras  # noqa: F401
                    import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            absl.logging.set_verbosity(absl.logging.ERROR)
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            if failed:
                noise.seek(0)
                sys.stderr.buffer.write(noise.read())


@contextmanager
def _left_out() -> Iterator[None]:
    """Makes the optional packages seem absent; whoever imports them later gets them."""
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
