"""What a detector sees of an image: the arrays from which its maps are computed."""

import numpy as np

from tfdetect.core.run import Run

# What a detector sees of one image: float32 [1, H, W, 3] for each of its inputs, in 0..255. The
# member of an ensemble that scores several windows of an image sees [1, crops, H, W, 3].
Views = list[np.ndarray]


def views_of_parts(run: Run, parts: list[np.ndarray]) -> tuple[Views, int]:
    """Return what a run's detector sees of an image, and the number of the view to map.

    Maps are of the largest view. A single detector, and a view with one window, is given the
    middle window alone.

    Args:
        run: the run.
        parts: uint8 [1, crops, H, W, 3] for each of the run's views, as from `view_dataset`.
    """
    views = []
    for part in parts:
        count = part.shape[1]
        one_window = len(parts) == 1 or count == 1
        views.append((part[:, count // 2] if one_window else part).astype(np.float32))
    return views, int(np.argmax([np.prod(view.size) for view in run.views]))


def middle_window(view: np.ndarray) -> np.ndarray:
    """Return the middle window [H, W, C] of a view [1, H, W, C] or [1, crops, H, W, C]."""
    return view[0] if view.ndim == 4 else view[0, view.shape[1] // 2]


def mean_color(view: np.ndarray) -> np.ndarray:
    """Return images [..., H, W, 3], float32, that have the mean color of the given ones."""
    return np.broadcast_to(view.mean((-3, -2), keepdims=True), view.shape).astype(np.float32)
