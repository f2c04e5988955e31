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
        if name not in names and name not in more:
            raise ValueError(
                f"no such name.{nearest(name, names)} Available: {', '.join(sorted(names))}"
            )
        return name

    return AfterValidator(check)
