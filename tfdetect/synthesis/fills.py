"""Fills: what is painted into a mask.

Each is a function `(image uint8 [H, W, 3], mask bool [H, W], rng, **options) -> uint8
[H, W, 3]`, of which only the pixels inside the mask are used. One asks for more by naming
it: `donor`, another photograph of the same size; `prompt`, a text; `autoencoder`, a trained
one.
"""

import cv2
import numpy as np

from tfdetect.synthesis.presets import load_preset

_MULTIPLE = 16  # of the sides of what Stable Diffusion 3 takes


def telea(image: np.ndarray, mask: np.ndarray, rng, radius: float = 5) -> np.ndarray:
    """Fast marching (Telea, 2004); `radius` in pixels."""
    return cv2.inpaint(np.ascontiguousarray(image), _hole(mask), radius, cv2.INPAINT_TELEA)


def navier_stokes(image: np.ndarray, mask: np.ndarray, rng, radius: float = 5) -> np.ndarray:
    """Navier-Stokes isophotes (Bertalmio et al., 2001); `radius` in pixels."""
    return cv2.inpaint(np.ascontiguousarray(image), _hole(mask), radius, cv2.INPAINT_NS)


def biharmonic(image: np.ndarray, mask: np.ndarray, rng) -> np.ndarray:
    """Biharmonic equation (Damelin and Hoang, 2018), by scikit-image; slow for large masks."""
    from skimage.restoration import inpaint_biharmonic

    filled = inpaint_biharmonic(image, mask, split_into_regions=True, channel_axis=-1)
    return np.rint(np.clip(filled, 0, 1) * 255).astype(np.uint8)


def copy_move(image: np.ndarray, mask: np.ndarray, rng) -> np.ndarray:
    """The same photograph moved, mirrored half of the time; of 32 moves the one that takes the
    fewest pixels from inside the mask.

    The moves take from inside the photograph. Where the mask leaves them no room, 32 longer
    ones are tried too, with the photograph mirrored beyond its border.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return image
    mirrored = rng.random() < 0.5 or bool(mask.all())
    source, taken = (image[:, ::-1], mask[:, ::-1]) if mirrored else (image, mask)
    inside = (-rows[0], height - rows[-1]), (-columns[0], width - columns[-1])
    anywhere = (-height, height), (-width, width)
    best, least = (0, 0), np.count_nonzero(mask)
    for down_range, across_range in (inside, anywhere):
        for _ in range(32):
            down, across = int(rng.integers(*down_range)), int(rng.integers(*across_range))
            if down == across == 0 and not mirrored:
                continue
            overlap = np.count_nonzero(mask & _moved(taken, down, across))
            if overlap < least:
                best, least = (down, across), overlap
        if least <= np.count_nonzero(mask) / 2:
            break
    return _moved(source, *best)


def splice(image: np.ndarray, mask: np.ndarray, rng, donor: np.ndarray) -> np.ndarray:
    """The same place of another photograph."""
    return donor


def autoencoder(image: np.ndarray, mask: np.ndarray, rng, autoencoder) -> np.ndarray:
    """The photograph through a small autoencoder trained on the user's own; see there."""
    return autoencoder.reconstruct(image)


def vae(
    image: np.ndarray, mask: np.ndarray, rng, preset: str = "stable_diffusion_3_medium"
) -> np.ndarray:
    """The photograph through the variational autoencoder of Stable Diffusion 3 (keras-hub).

    The code is the distribution's mean, not a sample of it.
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
    rng,
    prompt: str,
    preset: str = "stable_diffusion_3_medium",
    steps: int = 50,
    strength: float = 0.9,
) -> np.ndarray:
    """Stable Diffusion 3 inpainting with a prompt (keras-hub).

    Args:
        steps: of denoising.
        strength: how much of the photograph's region is replaced by noise first, 0 to 1.
    """
    padded, hole = _padded(image, _MULTIPLE), _padded(mask, _MULTIPLE)
    inputs = {
        "images": padded.astype(np.float32) / 127.5 - 1, "masks": hole, "prompts": prompt,
    }  # fmt: skip
    model = _diffusion(preset, padded.shape)
    seed = int(rng.integers(2**31))
    for variable in model.backbone.variables:  # the encoder draws its code from a state
        if "seed_generator_state" in variable.path:
            variable.assign([seed, 0])
    made = model.generate(inputs, num_steps=steps, strength=strength, seed=seed)
    return _cut(made, image)


def _diffusion(preset: str, shape: tuple[int, ...]):
    return load_preset("StableDiffusion3Inpaint", preset, "--diffusion", image_shape=shape)


def _hole(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def _moved(array: np.ndarray, down: int, across: int) -> np.ndarray:
    """What lies so far below and to the right, edges mirrored."""
    height, width = array.shape[:2]
    rows, columns = (np.pad(np.arange(side), side, "symmetric") for side in (height, width))
    return array[rows[height + down :][:height]][:, columns[width + across :][:width]]


def _padded(image: np.ndarray, multiple: int) -> np.ndarray:
    """The image with its edges repeated up to a multiple."""
    height, width = image.shape[:2]
    pads = [(0, -height % multiple), (0, -width % multiple), (0, 0)]
    return np.pad(image, pads[: image.ndim], "edge")


def _cut(made: np.ndarray, image: np.ndarray) -> np.ndarray:
    return np.asarray(made)[: image.shape[0], : image.shape[1]].astype(np.uint8)
