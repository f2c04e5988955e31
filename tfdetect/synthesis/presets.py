"""Loads keras-hub models by preset, which are fetched on first use."""

from functools import lru_cache

from tfdetect.core.errors import UserError


@lru_cache(1)
def load_preset(kind: str, preset: str, flag: str, **options):
    """A model of keras-hub.

    Args:
        kind: its class in `keras_hub.models`.
        preset: name, address or folder.
        flag: of the command, to name in the error.
        options: of `from_preset`; one model of other options is kept at a time.

    Raises:
        UserError: it cannot be loaded.
    """
    import keras_hub

    try:
        return getattr(keras_hub.models, kind).from_preset(preset, **options)
    except Exception as error:  # keras-hub raises what its download raises
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"The model {preset!r} cannot be loaded: {reason}\nFetch it on a machine with a "
            "network, where its license may have to be accepted, and give its folder: "
            f"{flag} FOLDER."
        ) from error
