"""Loads keras-hub models by preset, which are downloaded on first use."""

from functools import lru_cache
from typing import Any

from tfdetect.core.errors import ModelNotAvailable, first_line


@lru_cache(1)
def load_preset(kind: str, preset: str, flag: str, **options: Any) -> Any:
    """Return a model of keras-hub; the last one is kept.

    Args:
        kind: name of its class in `keras_hub.models`.
        preset: name, address or folder of the preset.
        flag: the command-line flag of the preset, for the message.
        options: arguments of `from_preset`.

    Raises:
        ModelNotAvailable: the model cannot be loaded.
    """
    import keras_hub

    try:
        return getattr(keras_hub.models, kind).from_preset(preset, **options)
    except Exception as error:  # keras-hub raises what its download raises
        raise ModelNotAvailable(
            f"The model {preset!r} cannot be loaded: {first_line(error)[:200]}\n"
            "Download it on a machine with a network, where its license may have to be accepted, "
            f"and give its folder: {flag} FOLDER."
        ) from error
