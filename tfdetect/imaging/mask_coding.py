"""How mask files say which pixels are altered, and reading them so. It needs no TensorFlow."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tfdetect.core.limits import MAX_PIXELS
from tfdetect.core.spec import MaskChannel
from tfdetect.imaging.pillow import opened, upright, upright_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

_COLORS = ("red", "green", "blue")
_TOLERANCE = 24  # largest difference of the channels of a gray mask, which JPEG may have changed
_FULL_SCALE = {8: 255, 16: 65_535}


@dataclass(frozen=True)
class MaskCoding:
    """What the pixels of mask files mean.

    Attributes:
        channel: which number of a pixel says whether it is altered. "gray" is for masks without
            colors; "color" is the largest of red, green and blue.
        values: values of unaltered and of altered pixels. A pixel counts as altered above the
            middle between them.
        inverted: whether the smaller values are those of altered pixels instead.
        bits: the number of bits of a value, 8 or 16. With 8 bits, 16-bit files are read by their
            upper 8 bits.
    """

    channel: MaskChannel = "gray"
    values: tuple[int, int] = (0, 255)
    inverted: bool = False
    bits: int = 8

    @property
    def threshold(self) -> int:
        """The smallest value that counts as altered, or if inverted as unaltered."""
        return sum(self.values) // 2 + 1

    def __str__(self) -> str:
        what = "transparency (alpha)" if self.channel == "alpha" else self.channel
        deep = " of 16 bits" if self.bits == 16 else ""
        values = f"below {self.threshold}" if self.inverted else f"from {self.threshold} on"
        return f"{what}{deep}, values {values} are altered"


class MaskError(ValueError):
    """A mask file does not have the channel or the number of bits that the others have."""


STANDARD = MaskCoding()  # 8-bit gray, altered from 128 on


def decode_mask(data: bytes, coding: MaskCoding, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a mask file.

    Args:
        data: the bytes of the file.
        coding: what its pixels mean.
        max_pixels: masks with more pixels are refused.

    Returns:
        uint8 [H, W], upright: 1 where altered, 0 elsewhere.

    Raises:
        MaskError: The file does not have the coding's channel or number of bits.
        ImageError: The file is refused.
        Exception: The file is damaged; Pillow's plugins raise many kinds.
    """
    with opened(data, max_pixels) as image:
        return altered_pixels(values_of(image, coding.channel, coding.bits), coding)


def altered_pixels(values: np.ndarray, coding: MaskCoding) -> np.ndarray:
    """Return uint8 of the values' shape: 1 where they mean "altered"."""
    above = values < coding.threshold if coding.inverted else values >= coding.threshold
    return above.view(np.uint8)


def values_of(image: "Image", channel: MaskChannel, bits: int) -> np.ndarray:
    """Return one channel of an opened image, uint8 or uint16 [H, W], upright.

    Raises:
        MaskError: The image does not have the channel or number of bits.
    """
    if bits == 16:
        if not image.mode.startswith("I;16"):
            raise MaskError("it has not 16 bits of gray as the other masks have")
        return np.asarray(upright(image))
    if channel == "alpha":
        if not _has_alpha(image):
            raise MaskError(
                "it has no alpha channel, by which masks are read (mask_channel: alpha)"
            )
        return np.asarray(upright(image).convert("RGBA").getchannel("A"))
    if image.mode in ("1", "L"):
        return np.asarray(upright(image).convert("L"))
    rgb = np.asarray(upright_rgb(image))
    if channel == "color":
        return rgb.max(axis=2)
    return rgb[..., 0 if channel == "gray" else _COLORS.index(channel)]


def _has_alpha(image: "Image") -> bool:
    return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


# --- detection

Values = dict[int, float]  # fraction of a mask's pixels that has a value


@dataclass(frozen=True)
class MaskSurvey:
    """Which values one mask file has.

    Attributes:
        bits: the number of bits of a value, 8 or 16.
        channels: by channel, the values. "gray" stands alone; masks with colors have "red",
            "green", "blue" and "color" instead. "alpha" is there where it is not opaque.
    """

    bits: int
    channels: dict[MaskChannel, Values]


def survey_mask(image: "Image") -> MaskSurvey:
    """Return which values an opened mask has; raises what Pillow raises."""
    if image.mode.startswith("I;16"):
        return MaskSurvey(16, {"gray": _values(values_of(image, "gray", 16))})
    found: dict[MaskChannel, Values] = {}
    if _has_alpha(image):
        alpha = _values(values_of(image, "alpha", 8))
        if set(alpha) != {255}:
            found["alpha"] = alpha
    if image.mode in ("1", "L"):
        return MaskSurvey(8, {**found, "gray": _values(values_of(image, "gray", 8))})
    rgb = np.asarray(upright_rgb(image))
    largest = rgb.max(axis=2)
    if int((largest - rgb.min(axis=2)).max()) <= _TOLERANCE:
        return MaskSurvey(8, {**found, "gray": _values(rgb[..., 0])})
    colors = {name: _values(rgb[..., number]) for number, name in enumerate(_COLORS)}
    return MaskSurvey(8, {**found, **colors, "color": _values(largest)})  # type: ignore[dict-item]


def _values(pixels: np.ndarray) -> Values:
    counts = np.bincount(pixels.ravel())
    present = np.flatnonzero(counts)
    return dict(zip(present.tolist(), (counts[present] / pixels.size).tolist()))


@dataclass(frozen=True)
class Detection:
    """How a set of masks seems to be coded.

    Attributes:
        coding: the coding; where there is a question, one that fits best.
        question: why the values do not say which pixels are altered; "" if they do.
        remark: what is odd about the values but leaves the coding clear, or "".
    """

    coding: MaskCoding
    question: str = ""
    remark: str = ""


def detect_coding(
    surveys: Iterable[MaskSurvey],
    channel: MaskChannel | None = None,
    values: tuple[int, int] | None = None,
    inverted: bool = False,
) -> Detection:
    """Return how masks are coded, from the values that they have.

    Larger values mean "altered" unless the user says otherwise: that is never inferred.

    Args:
        surveys: the surveys of the masks, or of a sample.
        channel, values, inverted: what the user says; None if nothing.
    """
    surveys = list(surveys)
    bits = 16 if surveys and all(survey.bits == 16 for survey in surveys) else 8
    if bits == 8:  # 16-bit files among others are read by their upper 8 bits
        surveys = [_upper_bits(s) if s.bits == 16 else s for s in surveys]
    question = ""
    if channel is None:
        channel, question = _detect_channel(surveys)
    mass = _mean_values(surveys, channel)
    if values is not None:
        coding = MaskCoding(channel, values, inverted, bits)
        return Detection(coding, question, _remark(mass, coding))
    values, unclear = _detect_values(mass, bits)
    coding = MaskCoding(channel, values, inverted, bits)
    return Detection(coding, question or unclear, "" if unclear else _remark(mass, coding))


def _upper_bits(survey: MaskSurvey) -> MaskSurvey:
    upper: Values = {}
    for value, fraction in survey.channels["gray"].items():
        upper[value >> 8] = upper.get(value >> 8, 0) + fraction
    return MaskSurvey(8, {"gray": upper})


def _detect_channel(surveys: list[MaskSurvey]) -> tuple[MaskChannel, str]:
    """Return the channel that tells the pixels of masks apart, and a question or ""."""
    count = len(surveys)
    transparent = [s for s in surveys if "alpha" in s.channels]
    colored = [s for s in surveys if "color" in s.channels]
    color = _detect_color(colored) if colored else "gray"
    if 2 * len(transparent) <= count or not count:
        return color, ""
    name: MaskChannel = "color" if colored else "gray"
    kinds = Counter(len(_channel(s, name)) for s in transparent)
    if kinds[2] and sum(len(s.channels["alpha"]) > 1 for s in transparent):
        return color, (
            "its masks hold two colors and are transparent in places, so that either may say "
            "what is altered. Set mask_channel: alpha or mask_channel: color"
        )
    return "alpha", ""


def _detect_color(colored: list[MaskSurvey]) -> MaskChannel:
    """Return the only channel that varies in masks with colors, or "color"."""
    varies = []
    for name in _COLORS:
        values = [value for s in colored for value in s.channels[name]]  # type: ignore[index]
        if max(values) - min(values) > _TOLERANCE:
            varies.append(name)
    return varies[0] if len(varies) == 1 else "color"  # type: ignore[return-value]


def _channel(survey: MaskSurvey, name: MaskChannel) -> Values:
    """Return the values of a channel; a gray mask has the same in each, an opaque one 255."""
    if name == "alpha":
        return survey.channels.get("alpha", {255: 1.0})
    if name == "gray" and "gray" not in survey.channels:
        name = "red"
    return survey.channels.get(name) or survey.channels["gray"]


def _mean_values(surveys: list[MaskSurvey], channel: MaskChannel) -> Values:
    """Return the mean fraction of the pixels that has each value."""
    mass: Values = {}
    for survey in surveys:
        for value, fraction in _channel(survey, channel).items():
            mass[value] = mass.get(value, 0.0) + fraction / len(surveys)
    return dict(sorted(mass.items()))


def _detect_values(mass: Values, bits: int) -> tuple[tuple[int, int], str]:
    """Return the values of unaltered and of altered pixels, and a question or ""."""
    full = _FULL_SCALE[bits]
    if not mass or set(mass) <= {0, full}:
        return (0, full), ""
    present = list(mass)
    low, high = present[0], present[-1]
    if len(present) == 2:
        return (low, high), ""
    for scale in (full, 255):  # 16 bits may hold values of 8
        if low <= scale // 4 and 3 * scale // 4 <= high <= scale:
            return (0, scale), ""
    named = ", ".join(map(str, present[:6])) + (", ..." if len(present) > 6 else "")
    if len(present) == 1:
        return (0, full), (
            f"all pixels of all its masks have the value {low}. If that means altered, set "
            f"mask_values: [0, {low}]"
        )
    return (low, present[1]), (
        f"its masks have the values {named}. Set mask_values to those of unaltered and of altered "
        f"pixels; [{low}, {present[1]}] takes all but {low} for altered"
    )


def _remark(mass: Values, coding: MaskCoding) -> str:
    """Return a sentence if many values are between those of unaltered and altered pixels."""
    low, high = coding.values
    quarter = (high - low) / 4
    between = {v: f for v, f in mass.items() if low + quarter < v < high - quarter}
    altered = sum(f for v, f in mass.items() if v >= coding.threshold)
    if not altered or sum(between.values()) < 0.05 * altered:
        return ""
    common = max(between, key=lambda value: between[value])
    side = "unaltered" if (common >= coding.threshold) == coding.inverted else "altered"
    return (
        f"many pixels of its masks are neither {low} nor {high}, most often {common}, which counts "
        f"as {side} (mask_values)"
    )
