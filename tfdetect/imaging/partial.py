"""Images of which a part can be read without computing the rest.

A detector often reads the middle of an image alone. What changes an image, such as JPEG
compression, is then done to the pixels that this part depends on, and to no others. The result is
that of changing the whole image and cutting the part out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import tensorflow as tf

from tfdetect.core.data_settings import cuts_windows
from tfdetect.core.run_info import View
from tfdetect.imaging.equalize import equalized_start
from tfdetect.imaging.geometry import window_start, windows


class Picture(NamedTuple):
    """An image whose pixels are computed where they are read.

    Attributes:
        size: height and width in pixels, int32 [2].
        read: from where a part begins, and its size (int32 [2] each, down and across; it lies
            within the image), to its pixels, uint8 [h, w, 3].
    """

    size: tf.Tensor
    read: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

    @classmethod
    def of(cls, image: tf.Tensor) -> Self:
        """Return an image uint8 [H, W, 3] as a picture."""
        return cls(tf.shape(image)[:2], lambda start, size: cut(image, start, size))

    def whole(self) -> tf.Tensor:
        """Return all pixels, uint8 [H, W, 3]."""
        return self.read(tf.zeros_like(self.size), self.size)

    def changed(
        self, change: Callable[[tf.Tensor], tf.Tensor], reach: int = 0, grid: int = 1
    ) -> Self:
        """Return the picture with changed pixels and the same size.

        Args:
            change: from pixels uint8 [h, w, 3] to the changed ones.
            reach: how far away the pixels are that a changed one depends on, in pixels.
            grid: side of the blocks that are changed as one, in pixels; the first one begins at the
                upper left corner.
        """

        def read(start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
            first = tf.maximum(start - reach, 0) // grid * grid
            end = tf.minimum(-(-(start + size + reach) // grid) * grid, self.size)
            return cut(change(self.read(first, end - first)), start - first, size)

        return self._replace(read=read)


def of_whole(change: Callable[[tf.Tensor], tf.Tensor], picture: Picture) -> Picture:
    """Return a picture after a change whose every pixel depends on the whole image.

    Args:
        change: from uint8 [H, W, 3] to uint8 [h, w, 3].
        picture: the picture before.
    """
    return Picture.of(change(picture.whole()))


def cut(image: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return the part [h, w, C] of an image [H, W, C]; `start` and `size` as in `Picture`."""
    return tf.slice(image, tf.pad(start, [[0, 1]]), tf.pad(size, [[0, 1]], constant_values=-1))


def picture_parts(picture: Picture, views: Sequence[View]) -> list[tf.Tensor]:
    """Return what `geometry.view_parts` returns of the whole picture.

    Only pixels that a view reads are computed: the middle, if all views crop it out before anything
    else or cut one window, or else the whole picture.

    Args:
        picture: the picture.
        views: the detector's views of an image.

    Returns:
        uint8 [crops, *size, 3] of each view.
    """
    if not all(map(reads_middle, views)):
        picture = Picture.of(picture.whole())  # computed once
    return [
        windows(_middle(picture, v), v.size, v.policy, v.crops, v.equalize) for v in views
    ]  # fmt: skip


def reads_middle(view: View) -> bool:
    """Return whether a view reads a middle part of a fixed size and nothing else of an image."""
    return view.equalize is not None or (cuts_windows(view.policy) and view.crops == 1)


def _middle(picture: Picture, view: View) -> tf.Tensor:
    """Return the pixels that a view reads; it makes the same of them as of the whole picture."""
    if not reads_middle(view):
        return picture.whole()
    if view.equalize is not None:
        side = view.equalize.side
        start, wanted = equalized_start(picture.size, side), tf.constant([side, side])
    else:
        wanted = tf.constant([*view.size])
        start = window_start(picture.size, wanted, 0.5)
    return picture.read(start, tf.minimum(picture.size, wanted))
