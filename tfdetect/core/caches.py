"""Where files are kept that can be made or fetched again."""

import os
from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.text import user_path


def cache_dir() -> Path:
    """Return the folder for caches: $TFDETECT_CACHE, or else ~/.cache/tfdetect.

    Raises:
        UserError: the variable holds an address; copies of other addresses are kept in the folder.
    """
    text = os.environ.get("TFDETECT_CACHE") or "~/.cache/tfdetect"
    if "://" in text:
        raise UserError(f"TFDETECT_CACHE is a folder of this machine. Received: {text!r:.80}.")
    return user_path(text)
