"""What is measured when a set of images is explained: means by class, and tests of the maps."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from tfdetect.core.run_results import Interval
from tfdetect.evaluation.intervals import mean_interval
from tfdetect.explanation.image_explainer import ExplainedImage, ImageTest
from tfdetect.explanation.maps import ATTENTION

_LISTED_CHANNELS = 5  # for each fake class


class MapTest(TypedDict):
    """Whether a map can be trusted, over the images of a set; see `ImageTest`."""

    shuffled: float  # median correlation with the map of the network with shuffled weights
    fall: float  # mean fall of the logit without the patches that the map ranks highest
    random: float  # mean fall without random patches
    gain: Interval  # mean of the difference of both falls


class ExplanationResult(TypedDict):
    """The content of explanation.json."""

    count: int  # of images
    features: dict[str, list[int]]  # height, width and channels of each feature map
    maps: dict[str, MapTest]


def summarize_tests(tests: Sequence[ImageTest]) -> MapTest:
    """Return the summary of the tests of one map, of at least one image."""
    correlations, falls, random_falls = np.array(tests).T
    return {
        "shuffled": round(float(np.median(correlations)), 4),
        "fall": round(float(falls.mean()), 4),
        "random": round(float(random_falls.mean()), 4),
        "gain": mean_interval(falls - random_falls),
    }


class MapMeans:
    """Mean image and mean maps of each class.

    Attributes:
        counts: number of images of each class.
    """

    def __init__(self, classes: int):
        self.counts = [0] * classes
        self._images: list = [0.0] * classes
        self._maps: dict[str, list] = {}

    def add(self, image: ExplainedImage) -> None:
        """Add an image; each counts the same, whatever the scale of its maps."""
        label = image.label
        self.counts[label] += 1
        self._images[label] = self._images[label] + image.image
        for name, values in image.maps.items():
            signed = values - 1 if name == ATTENTION else values
            scale = np.abs(signed).mean() or 1.0
            sums = self._maps.setdefault(name, [0.0] * len(self.counts))
            sums[label] = sums[label] + signed / scale

    def image(self, label: int) -> np.ndarray:
        """Return the mean image of a class that has images, float [H, W, 3], in 0..255."""
        return self._images[label] / self.counts[label]

    def maps(self) -> dict[str, dict[int, np.ndarray]]:
        """Return the mean maps, float [H, W], by name and label of the classes with images."""
        return {name: _means(sums, self.counts) for name, sums in self._maps.items()}


class FeatureMeans:
    """Mean feature maps of each class; empty for detectors with several views.

    Attributes:
        sizes: height, width and channels of each feature map, by name.
    """

    def __init__(self, classes: int):
        self.sizes: dict[str, list[int]] = {}
        self._counts = [0] * classes
        self._sums: dict[str, list] = {}
        self._channels: dict[str, list[list[np.ndarray]]] = {}

    def add(self, image: ExplainedImage) -> None:
        """Add an image."""
        label, classes = image.label, len(self._counts)
        self._counts[label] += 1
        for name, (positions, channels) in image.features.items():
            self.sizes[name] = [*positions.shape, len(channels)]
            sums = self._sums.setdefault(name, [0.0] * classes)
            sums[label] = sums[label] + positions
            self._channels.setdefault(name, [[] for _ in range(classes)])[label].append(channels)

    def maps(self) -> dict[str, dict[int, np.ndarray]]:
        """Return the mean feature maps, float [h, w], by name and label of classes with images."""
        return {name: _means(sums, self._counts) for name, sums in self._sums.items()}

    def separating_channels(self) -> list[tuple[str, int, list[tuple[int, float]]]]:
        """Return the channels whose means differ most between a fake class and class 0.

        Returns:
            Name of the feature map, label of the fake class, and the numbers of the channels with
            Cohen's d, positive where the fake class has the higher mean. Classes with fewer than
            two images are left out.
        """
        found = []
        for name, by_class in self._channels.items():
            for label in range(1, len(by_class)):
                if min(len(by_class[0]), len(by_class[label])) < 2:
                    continue
                d = _cohens_d(np.array(by_class[0]), np.array(by_class[label]))
                best = np.argsort(-np.abs(d))[:_LISTED_CHANNELS]
                found.append((name, label, [(int(i), float(d[i])) for i in best]))
        return found


def _means(sums: list, counts: list[int]) -> dict[int, np.ndarray]:
    return {label: sums[label] / count for label, count in enumerate(counts) if count}


def _cohens_d(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return Cohen's d of each column, positive where `other` is larger."""
    deviation = np.sqrt((one.var(0, ddof=1) + other.var(0, ddof=1)) / 2)
    return (other.mean(0) - one.mean(0)) / np.maximum(deviation, 1e-9)
