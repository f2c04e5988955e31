"""Resizing and windows of one image in NumPy and Pillow, as `imaging.geometry` has them in TF."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tfdetect.core.data_settings import RESIZING_BIAS, Equalize, cuts_windows
from tfdetect.core.run_info import View


def resize(image: np.ndarray, size: tuple[int, int], policy: str) -> np.ndarray:
    """Resize an image with an antialiased bilinear filter; an image of that size is unchanged.

    The result equals that of `imaging.geometry.resize`; one value in 10,000 may differ by one,
    where a sum of floats is at the border of two integers.

    Args:
        image: uint8 [H, W, 3].
        size: (height, width) in pixels.
        policy: "stretch", "crop", "pad", "window_tile" or "window_pad"; see
            `imaging.geometry.resize`.

    Returns:
        uint8 [*size, 3].
    """
    if cuts_windows(policy):
        return window(image, size, policy, (0.5, 0.5))
    if image.shape[:2] == tuple(size):
        return image
    height, width = scaled_size(image.shape[:2], size, policy)
    pixels = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        plane = Image.fromarray(image[..., channel]).convert("F")
        resized = plane.resize((width, height), Image.Resampling.BILINEAR)
        pixels[..., channel] = np.asarray(resized)
    if policy != "stretch":
        pixels = crop_or_pad(pixels, size)
    return np.clip(np.rint(pixels + np.float32(RESIZING_BIAS)), 0, 255).astype(np.uint8)


def restore(mask: np.ndarray, original: tuple[int, int], policy: str) -> np.ndarray:
    """Resize the mask of a resized image to the size that the image had.

    Args:
        mask: float32 [h, w].
        original: (height, width) of the image before.
        policy: "stretch", "crop" or "pad".

    Returns:
        float32 [*original]; 0 where the policy cut the image off.
    """
    if policy != "stretch":
        mask = crop_or_pad(mask, scaled_size(original, mask.shape, policy))
    for axis, length in enumerate(original):
        position = (np.arange(length) + 0.5) * (mask.shape[axis] / length) - 0.5
        lower = np.floor(position)
        weight = (position - lower).astype(np.float32)
        first = np.clip(lower, 0, mask.shape[axis] - 1).astype(np.int64)
        second = np.clip(lower + 1, 0, mask.shape[axis] - 1).astype(np.int64)
        weight = weight[:, None] if axis == 0 else weight
        mask = mask.take(first, axis) * (1 - weight) + mask.take(second, axis) * weight
    return mask


def scaled_size(current: tuple, size: tuple, policy: str) -> tuple[int, int]:
    """Return the (height, width) to which an image is scaled before it is cut or padded."""
    if policy == "stretch":
        return size[0], size[1]
    before = np.asarray(current[:2], np.float32)
    ratios = np.asarray(size, np.float32) / before
    ratio = ratios.max() if policy == "crop" else ratios.min()
    scaled = np.rint(before * ratio).astype(int)
    height, width = np.maximum(scaled, 1 if policy == "pad" else size)
    return int(height), int(width)


def crop_or_pad(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the center of an array [H, W, ...], padded with zeros where it is smaller."""
    for axis, wanted in enumerate(size):
        length = pixels.shape[axis]
        if length >= wanted:
            start = (length - wanted) // 2
            pixels = pixels.take(range(start, start + wanted), axis)
        else:
            before = (wanted - length) // 2
            widths = [(0, 0)] * pixels.ndim
            widths[axis] = (before, wanted - length - before)
            pixels = np.pad(pixels, widths)
    return pixels


def window(
    image: np.ndarray, size: tuple[int, int], policy: str, position: tuple[float, float]
) -> np.ndarray:
    """Cut a window out of an image without resampling; see `imaging.geometry.window`.

    Args:
        image: uint8 [H, W, 3].
        size: (height, width) of the window in pixels.
        policy: "window_tile" repeats an image that is too short; "window_pad" adds black on both
            sides.
        position: where the window lies, down and across, from 0 to 1; 0.5 is the center.

    Returns:
        uint8 [*size, 3].
    """
    for axis, (wanted, where) in enumerate(zip(size, position)):
        length = image.shape[axis]
        slack = length - wanted
        start = min(max(int(np.floor(np.float32(where) * np.float32(slack + 1))), 0), max(slack, 0))
        if slack < 0 and policy == "window_pad":
            widths = [(0, 0)] * 3
            widths[axis] = (-slack // 2, -slack - -slack // 2)
            image = np.pad(image, widths)
        elif slack < 0:
            image = image.take(np.arange(wanted) % length, axis)
        else:
            image = image[start : start + wanted] if axis == 0 else image[:, start : start + wanted]
    return image


def equalize(image: np.ndarray, settings: Equalize) -> np.ndarray:
    """Crop the center on the grid of JPEG's blocks and encode it as JPEG once.

    The result equals that of `imaging.equalize.equalize`.

    Args:
        image: uint8 [H, W, 3].
        settings: side of the crop and range of qualities, of which the middle one is taken.

    Returns:
        uint8 [h, w, 3].
    """
    side = settings.side
    slack = [max(length - side, 0) // 8 for length in image.shape[:2]]
    top, left = (8 * min(int((each + 1) * 0.5), each) for each in slack)
    crop = image[top : top + side, left : left + side]
    return encoded(crop, "JPEG", settings.middle_quality)


def encoded(image: np.ndarray, kind: str, quality: int) -> np.ndarray:
    """Encode an image and decode it again.

    Args:
        image: uint8 [H, W, 3].
        kind: "JPEG", with chroma subsampling 4:2:0, or "WEBP".
        quality: 1 to 100.

    Returns:
        uint8 [H, W, 3].
    """
    options = {"subsampling": "4:2:0"} if kind == "JPEG" else {}
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=quality, **options)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded.convert("RGB"))


def windows(
    image: np.ndarray,
    size: tuple[int, int],
    policy: str,
    count: int,
    equalizing: Equalize | None = None,
) -> np.ndarray:
    """Return the parts of an image that a detector is given; see `imaging.geometry.windows`.

    Args:
        image: uint8 [H, W, 3].
        size: (height, width) of a part in pixels.
        policy: how to resize; see `resize`.
        count: 1, or with a window policy 5 (center and corners) or 9 (a grid of 3 x 3).
        equalizing: how the image is cropped and encoded before.

    Returns:
        uint8 [count, *size, 3].
    """
    if equalizing is not None:
        image = equalize(image, equalizing)
    if count == 1:
        return resize(image, size, policy)[None]
    positions = [(y, x) for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)]
    positions = positions[::2] if count == 5 else positions
    return np.stack([window(image, size, policy, position) for position in positions])


def view_parts(image: np.ndarray, views: Sequence[View]) -> list[np.ndarray]:
    """Return the `windows` that a detector is given of an image, for each of its views."""
    return [windows(image, v.size, v.policy, v.crops, v.equalize) for v in views]
