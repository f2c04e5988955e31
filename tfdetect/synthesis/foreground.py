"""Removes the background of images, to compare trainings with and without it."""

import threading
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from tfdetect.core import registry
from tfdetect.core.choices import Background
from tfdetect.core.errors import ModelNotAvailable, UserError
from tfdetect.synthesis.mask_makers import draw_mask
from tfdetect.synthesis.photos import Photo, random_generator

GRAY = 128  # level of all three colors of a removed background


class Foreground:
    """Finds the foreground of images and removes the rest; safe to use from several threads.

    Args:
        maker: one of `registry.FOREGROUND_MASKS`; if it finds several regions, all are kept.
        options: arguments of the mask maker.
        background: "gray" fills the background with gray 128. "keep" changes no pixel, but refuses
            the same images as "gray", so that both give datasets of the same images.

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
        except UserError:  # the empty image has no foreground
            pass

    def __call__(self, path: str, image: np.ndarray) -> np.ndarray:
        """Return the image without its background.

        Args:
            path: path of the image; its name decides which segmentation of a folder is used.
            image: uint8 [H, W, 3].

        Returns:
            uint8 [H, W, 3].

        Raises:
            UserError: the image has no foreground.
        """
        name = Path(path).name
        photo = Photo(name, image, np.asarray)
        with self._lock:
            mask = draw_mask(self._maker, photo, random_generator(0, name), **self._options)
        return image if self._background == "keep" else np.where(mask[..., None], image, GRAY)
