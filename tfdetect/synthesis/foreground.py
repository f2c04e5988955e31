"""Removes the background of photographs, for trainings with and without it."""

import threading
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfdetect.core import registry
from tfdetect.core.errors import ModelNotAvailable, UserError
from tfdetect.synthesis.mask_makers import draw_mask
from tfdetect.synthesis.photos import Photo, random_generator

Background = Literal["gray", "keep"]
GRAY = 128  # level of all three colors of a removed background


class Foreground:
    """Finds what a photograph shows, and removes the rest; several threads may use it at a time.

    Args:
        maker: one of `registry.FOREGROUND_MASKS`; of those that find several regions all are kept.
        options: its arguments.
        background: "gray" fills the background with gray 128; "keep" leaves every pixel, so that
            the result has the same photographs as with "gray".

    Raises:
        ModelNotAvailable: a network that the mask maker needs cannot be loaded.
    """

    def __init__(self, maker: str, options: dict[str, Any], background: Background):
        several = "together" in signature(registry.MASKS.load(maker)).parameters
        self._maker, self._background = maker, background
        self._options = {**options, **({"together": True} if several else {})}
        self._lock = threading.Lock()
        try:
            self("", np.zeros((64, 64, 3), np.uint8))
        except ModelNotAvailable:
            raise
        except UserError:  # nothing to see there
            pass

    def __call__(self, path: str, image: np.ndarray) -> np.ndarray:
        """Return the image without its background.

        Args:
            path: the path of the image; its name decides which segmentation of a folder is taken.
            image: uint8 [H, W, 3].

        Returns:
            uint8 [H, W, 3].

        Raises:
            UserError: there is no foreground in it.
        """
        name = Path(path).name
        photo = Photo(name, image, np.asarray)
        with self._lock:
            mask = draw_mask(self._maker, photo, random_generator(0, name), **self._options)
        return image if self._background == "keep" else np.where(mask[..., None], image, GRAY)
