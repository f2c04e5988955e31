"""The check of names in documents that parts of tfdetect and plug-ins register."""

from typing import Any

from pydantic import AfterValidator

from tfdetect.core import plugins
from tfdetect.core.entries import Registry
from tfdetect.core.errors import nearest


def registered(names: Registry[Any], *more: str) -> AfterValidator:
    """Return the check of a name that must be registered, or be one of some more."""

    def check(name: str) -> str:
        plugins.load_listed()
        available = sorted([*names, *more])
        if name not in available:
            raise ValueError(
                f"no such name.{nearest(name, available)} Available: {', '.join(available)}"
            )
        return name

    return AfterValidator(check)
