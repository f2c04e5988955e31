"""Where files are kept that can be made or fetched again."""

import os
from pathlib import Path

from tfdetect.core.text import user_path


def cache_dir() -> Path:
    """Return the folder for caches: $TFDETECT_CACHE, or else ~/.cache/tfdetect."""
    return user_path(os.environ.get("TFDETECT_CACHE") or "~/.cache/tfdetect")
