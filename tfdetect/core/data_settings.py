"""The section `data` of an experiment: which images are read, and how they reach the detector."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tfdetect.core import registry
from tfdetect.core.choices import TilePooling
from tfdetect.core.documents import Document
from tfdetect.core.plugins import registered

MAX_SIDE = 8192  # a larger number is a slip of the pen, which ends in a memory error
Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]

# Added to resized pixels before they are rounded: many are halves but for errors of floats, which
# TensorFlow, Pillow and JavaScript would round differently.
RESIZING_BIAS = 0.00137

Resize = Literal["stretch", "crop", "pad", "window_tile", "window_pad"]  # see geometry.resize
TILE_OVERLAP = 4  # neighboring tiles overlap by at least a side divided by this
TILE_BATCH = 16  # tiles predicted together, so that memory does not grow with the image
TOP_PIXELS = 200  # one of so many pixels of an image gives its verdict, with top_pixels


class Augmentation(Document):
    """One step of an augmentation policy: a registered name and its parameters."""

    name: Annotated[str, registered(registry.AUGMENTATIONS)]
    params: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        # In YAML it is flat: {name: warp, rotation: 20}.
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "params" not in value:
            rest = {k: v for k, v in value.items() if k != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "params": rest}
        return value


def cuts_windows(policy: str) -> bool:
    """Return whether a resize policy takes windows of an image at its own resolution."""
    return policy.startswith("window_")


class Equalize(Document):
    """Brings all images to one encoding, so that a detector cannot tell classes by it.

    Each image is cropped on the grid of JPEG's blocks, without resizing, and encoded as JPEG once
    more. Crop and quality are random in training; otherwise the crop is the center, and the quality
    is the middle one. A quality that depended on the pixels would make the score depend on noise.

    Attributes:
        side: longest side of the crop in pixels, a multiple of 8.
        quality: lowest and highest JPEG quality, 1 to 100.
        min_scale: in training, half of the images are shrunk before the crop, by a factor from
            this to 1, so that resizing alone reveals nothing; 1 never resizes.
        random_fraction: fraction of the images that training draws crop, quality and size of; it
            reads the others as evaluation does, anew in each epoch.
    """

    side: int = Field(512, ge=8, multiple_of=8)
    quality: tuple[int, int] = (80, 95)
    min_scale: float = Field(1.0, gt=0, le=1)
    random_fraction: float = Field(1.0, ge=0, le=1)

    @field_validator("quality")
    @classmethod
    def _range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1] <= 100:
            raise ValueError("must be a lowest and a highest quality, 1 to 100")
        return value

    @property
    def middle_quality(self) -> int:
        """The JPEG quality of evaluation and prediction."""
        return sum(self.quality) // 2


class Data(Document):
    """Which images are read and how they reach the detector.

    Attributes:
        dataset: name of a shipped dataset spec, a path to one, or a folder.
        image_size: (height, width) of the detector's input in pixels; one number for both.
        equalize: brings all images to one encoding before anything else; null leaves them as they
            are.
        resize: how an image becomes that size; the window policies take pixels as they are, at
            random positions in training and in the center otherwise.
        test_crops: windows per image whose probabilities are averaged at prediction.
        tile_pooling: how P(fake) of an image follows from its tiles, of a detector that predicts
            masks with a window policy: "max" takes the tile that looks most like a fake, so that
            P(fake) grows with the number of tiles; "top_pixels" takes the mean logit of the highest
            half percent of the whole mask, as the head of that name does of one tile.
        augment: augmentation steps of training images, in order.
        cache: keep decoded images in memory: "auto" where they fit, "memory" always, or "none".
        balance: the balance of the classes in training: "sample" draws them equally often, "weight"
            weights the loss; "domain" draws them equally often and, within a class, every generator
            or source in proportion to the square root of its images, so that no large one
            dominates.
        dataset_weights: how often the datasets of a union are drawn in training, by name; by
            default in proportion to their sizes.
        keep_hashes: keep 16 bytes of hashes of each training image in the run, by which copies of
            training images are recognized later.
    """

    dataset: str | None = None
    image_size: tuple[Side, Side] = (224, 224)
    equalize: Equalize | None = None
    resize: Resize = "stretch"
    test_crops: Literal[1, 5, 9] = 1
    tile_pooling: TilePooling = "max"
    augment: tuple[Augmentation, ...] = ()
    cache: Literal["auto", "memory", "none"] = "auto"
    balance: Literal["none", "sample", "weight", "domain"] = "none"
    dataset_weights: dict[str, float] = {}
    keep_hashes: bool = True

    @model_validator(mode="after")
    def _windows(self):
        if self.test_crops > 1 and not cuts_windows(self.resize):
            raise ValueError("test_crops needs resize: window_tile or window_pad")
        return self

    @model_validator(mode="after")
    def _one_balance(self):
        if self.balance == "domain" and self.dataset_weights:
            raise ValueError("balance: domain draws by generator and source; drop dataset_weights")
        return self

    @field_validator("dataset_weights")
    @classmethod
    def _positive(cls, value: dict[str, float]) -> dict[str, float]:
        if any(not 0 < weight <= 1e6 for weight in value.values()):
            raise ValueError(
                "weights are above 0, at most 1,000,000; to exclude a dataset, do not name it"
            )
        return value

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if type(value) is int else value
