"""Fills: they replace the pixels inside a mask.

Each is a function `(image uint8 [H, W, 3], mask bool [H, W], rng, **options) -> uint8 [H, W, 3]`.
Only the pixels inside the mask are used from its result. A fill may also have the parameters
`donor`, another photograph of the same size, `prompt`, a text, and `autoencoder`, a trained one.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tfdetect.synthesis.presets import load_preset

if TYPE_CHECKING:
    from tfdetect.synthesis.autoencoder import Autoencoder

_MAX_ENLARGEMENT = 1.25  # of an object that is put into another photograph
_MULTIPLE = 16  # sides of images for Stable Diffusion 3 must be divisible by this


def telea(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, radius: float = 5
) -> np.ndarray:
    """Fill by fast marching (Telea, 2004); `radius` in pixels."""
    return cv2.inpaint(np.ascontiguousarray(image), _hole(mask), radius, cv2.INPAINT_TELEA)


def navier_stokes(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, radius: float = 5
) -> np.ndarray:
    """Fill by Navier-Stokes equations (Bertalmio et al., 2001); `radius` in pixels."""
    return cv2.inpaint(np.ascontiguousarray(image), _hole(mask), radius, cv2.INPAINT_NS)


def biharmonic(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fill by the biharmonic equation (Damelin and Hoang, 2018); slow for large masks."""
    from skimage.restoration import inpaint_biharmonic

    filled = inpaint_biharmonic(image, mask, split_into_regions=True, channel_axis=-1)
    return np.rint(np.clip(filled, 0, 1) * 255).astype(np.uint8)


def copy_move(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    rotation: float = 0.0,
    scale: Sequence[float] = (1.0, 1.0),
) -> np.ndarray:
    """Fill with a copy of the photograph: shifted, half of the time mirrored, rotated and scaled.

    Of 32 random shifts, the one that copies the fewest pixels from inside the mask is used. The
    copied region is inside the photograph. If more than half of the mask would be copied from
    inside the mask, 32 longer shifts are tried too, with the photograph mirrored beyond its border.

    Args:
        image: uint8 [H, W, 3].
        mask: bool [H, W].
        rng: source of random numbers.
        rotation: largest angle in degrees by which the copy is rotated, in either direction.
        scale: smallest and largest factor by which the copy is scaled.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return image
    mirrored = rng.random() < 0.5 or bool(mask.all())
    source, taken = (image[:, ::-1], mask[:, ::-1]) if mirrored else (image, mask)
    turned = rotation > 0 or tuple(scale) != (1.0, 1.0)
    if turned:
        center = (float(columns.mean()), float(rows.mean()))
        angle, factor = rng.uniform(-rotation, rotation), rng.uniform(scale[0], scale[1])
        matrix = cv2.getRotationMatrix2D(center, angle, factor)
        source = _warped(source, matrix, cv2.INTER_CUBIC)
        taken = _warped(taken.astype(np.uint8), matrix, cv2.INTER_NEAREST) > 0
    inside = (-rows[0], height - rows[-1]), (-columns[0], width - columns[-1])
    anywhere = (-height, height), (-width, width)
    best, smallest = (0, 0), np.count_nonzero(mask)
    for down_range, across_range in (inside, anywhere):
        for _ in range(32):
            down, across = int(rng.integers(*down_range)), int(rng.integers(*across_range))
            if down == across == 0 and not mirrored and not turned:
                continue
            overlap = np.count_nonzero(mask & _moved(taken, down, across))
            if overlap < smallest:
                best, smallest = (down, across), overlap
        if smallest <= np.count_nonzero(mask) / 2:
            break
    return _moved(source, *best)


def _warped(array: np.ndarray, matrix: np.ndarray, interpolation: int) -> np.ndarray:
    """Return an array after an affine transformation, mirrored beyond its border."""
    return cv2.warpAffine(
        np.ascontiguousarray(array), matrix, array.shape[1::-1], flags=interpolation,
        borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip


def splice(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, donor: np.ndarray
) -> np.ndarray:
    """Fill with the same region of another photograph, or of an image from `place`."""
    return donor


def place(
    donor: np.ndarray,
    region: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    coverage: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a region out of a photograph, scale it, and place it randomly in an empty image.

    The region gets an area from `coverage`, or a smaller one: its box must fit into the image, and
    it is enlarged by at most a quarter.

    Args:
        donor: uint8 [H, W, 3].
        region: bool [H, W], not empty.
        size: (height, width) of the image in pixels.
        rng: source of random numbers.
        coverage: smallest and largest fraction of the image that the region covers.

    Returns:
        The image, uint8 [*size, 3], black outside the region, and the region in it, bool [*size].
    """
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    part, inside = donor[box], region[box].astype(np.uint8)
    wanted = math.sqrt(rng.uniform(*coverage) * size[0] * size[1] / inside.sum())
    factor = min(wanted, _MAX_ENLARGEMENT, *(f / s for f, s in zip(size, inside.shape)))
    height, width = (max(1, int(s * factor)) for s in inside.shape)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    part = cv2.resize(part, (width, height), interpolation=how)
    inside = cv2.resize(inside, (width, height), interpolation=cv2.INTER_NEAREST)
    top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
    pixels, mask = np.zeros((*size, 3), np.uint8), np.zeros(size, bool)
    mask[top : top + height, left : left + width] = inside > 0
    pixels[top : top + height, left : left + width] = part
    pixels[~mask] = 0
    return pixels, mask


def autoencoder(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, autoencoder: "Autoencoder"
) -> np.ndarray:
    """Fill with the reconstruction of the photograph by a small autoencoder."""
    return autoencoder.reconstruct(image)


def vae(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    preset: str = "stable_diffusion_3_medium",
) -> np.ndarray:
    """Fill with the reconstruction by the variational autoencoder of Stable Diffusion 3.

    The code is the mean of the distribution, not a sample. The model is from keras-hub.
    """
    padded = _padded(image, _MULTIPLE)
    model = _diffusion(preset, padded.shape).backbone.vae
    scaled = padded[None].astype(np.float32) / 127.5 - 1  # the range it was trained on
    moments = np.asarray(model.encoder(scaled))
    decoded = np.asarray(model.decode(moments[..., : moments.shape[-1] // 2]))[0]
    return _cut(np.rint(np.clip((decoded + 1) * 127.5, 0, 255)), image)


def diffusion(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    prompt: str,
    preset: str = "stable_diffusion_3_medium",
    steps: int = 50,
    strength: float = 0.9,
) -> np.ndarray:
    """Fill by inpainting with Stable Diffusion 3 and a prompt; the model is from keras-hub.

    Args:
        image: uint8 [H, W, 3].
        mask: bool [H, W].
        rng: source of the seed.
        prompt: what to paint.
        preset: name, address or folder of the model.
        steps: number of denoising steps.
        strength: fraction of the region that is replaced by noise first, 0 to 1.
    """
    padded, hole = _padded(image, _MULTIPLE), _padded(mask, _MULTIPLE)
    inputs = {"images": padded.astype(np.float32) / 127.5 - 1, "masks": hole, "prompts": prompt}
    model = _diffusion(preset, padded.shape)
    seed = int(rng.integers(2**31))
    for variable in model.backbone.variables:  # the encoder draws its code from a state
        if "seed_generator_state" in variable.path:
            variable.assign([seed, 0])
    made = model.generate(inputs, num_steps=steps, strength=strength, seed=seed)
    return _cut(made, image)


def _diffusion(preset: str, shape: tuple[int, ...]) -> Any:
    return load_preset("StableDiffusion3Inpaint", preset, "--diffusion", image_shape=shape)


def _hole(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def _moved(array: np.ndarray, down: int, across: int) -> np.ndarray:
    """Return an array shifted up by `down` and left by `across` pixels, mirrored at its border."""
    height, width = array.shape[:2]
    rows, columns = (np.pad(np.arange(side), side, "symmetric") for side in (height, width))
    return array[rows[height + down :][:height]][:, columns[width + across :][:width]]


def _padded(image: np.ndarray, multiple: int) -> np.ndarray:
    """Return the image with its edges repeated until its sides are divisible by a number."""
    height, width = image.shape[:2]
    pads = [(0, -height % multiple), (0, -width % multiple), (0, 0)]
    return np.pad(image, pads[: image.ndim], "edge")


def _cut(made: np.ndarray, image: np.ndarray) -> np.ndarray:
    return np.asarray(made)[: image.shape[0], : image.shape[1]].astype(np.uint8)
