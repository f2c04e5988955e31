"""The folder for files that can be made or fetched again."""

import os
from pathlib import Path

from tfdetect.core.errors import UserError


def cache_dir() -> Path:
    """Return the folder for caches: $TFDETECT_CACHE, or else ~/.cache/tfdetect.

    Raises:
        UserError: the variable holds an address, or begins with the "~name" of a user who does not
            exist. Copies of addresses are kept in the folder.
    """
    text = os.environ.get("TFDETECT_CACHE") or "~/.cache/tfdetect"
    if "://" in text:
        raise UserError(f"TFDETECT_CACHE is a folder of this machine. Received: {text!r:.80}.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"TFDETECT_CACHE is {text!r:.80}: {error}") from None
