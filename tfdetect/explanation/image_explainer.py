"""Explains single images of a set: their maps, feature maps, and tests of the maps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tfdetect.core.run import Run
from tfdetect.data.catalog import Catalog
from tfdetect.data.loading import view_dataset
from tfdetect.data.sources import image_source
from tfdetect.explanation.feature_maps import feature_maps
from tfdetect.explanation.maps import ATTENTION, Explainer
from tfdetect.explanation.patches import flattened, patch_grid
from tfdetect.explanation.views import Views, middle_window, views_of_parts
from tfdetect.models.saving import load_detector

FLATTENED_FRACTION = 0.1  # of the patches lose their texture to test a map


class FeatureMap(NamedTuple):
    """Means of one feature map of an image.

    Attributes:
        positions: mean over the channels, float32 [h, w].
        channels: mean over the positions, float32 [c].
    """

    positions: np.ndarray
    channels: np.ndarray


class ImageTest(NamedTuple):
    """Whether one map of one image can be trusted.

    Attributes:
        correlation: rank correlation with the map of the same network with shuffled weights.
        fall: how far the logit of the verdict falls if the patches that the map ranks highest lose
            their texture.
        random_fall: the same for as many random patches.
    """

    correlation: float
    fall: float
    random_fall: float


@dataclass(frozen=True)
class ExplainedImage:
    """What moved the verdict on one image.

    Attributes:
        label: number of its class.
        image: the view that the maps are of, [H, W, 3], in 0..255.
        maps: explanation maps by name, [H, W].
        features: feature maps by name; empty for detectors with several views.
        tests: tests of the maps, by name of the map.
    """

    label: int
    image: np.ndarray
    maps: dict[str, np.ndarray]
    features: dict[str, FeatureMap]
    tests: dict[str, ImageTest]


class ImageExplainer:
    """Explains single images with one run, whose model is loaded once.

    Args:
        run: the run.
        stages: stages of the backbone whose feature maps are returned instead of the last; see
            `feature_maps`.
    """

    def __init__(self, run: Run, stages: Sequence[str] = ()):
        self._run, detector = run, load_detector(run)
        self._explainer = Explainer(detector, run.info.members)
        self._feature_maps: Callable[[np.ndarray], dict[str, np.ndarray]] = lambda images: {}
        if len(run.views) == 1:
            self._feature_maps = feature_maps(detector, stages, run.info.members)

    def explain(self, catalog: Catalog, rows: pa.Table) -> Iterator[ExplainedImage]:
        """Yield the explanations of the images that can be read.

        Args:
            catalog: the dataset.
            rows: rows of the catalog with the column number, the seed of an image's random patches.
        """
        for index, parts in view_dataset(image_source(catalog, rows), self._run.views, 1):
            row = int(index[0])
            views, view = views_of_parts(self._run, [part.numpy() for part in parts])
            maps = self._explainer.maps(views, view)
            rng = np.random.default_rng([0, rows["number"][row].as_py()])
            features = {
                name: FeatureMap(values[0].mean(-1), values[0].mean((0, 1)))
                for name, values in self._feature_maps(views[0]).items()
            }
            yield ExplainedImage(
                label=rows["label"][row].as_py(), image=middle_window(views[view]), maps=maps,
                features=features, tests=self._test_maps(views, view, maps, rng),
            )  # fmt: skip

    def _test_maps(
        self, views: Views, view: int, maps: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, ImageTest]:
        correlations = self._explainer.sanity(views, maps, view)
        score = self._explainer.score(views)[0]
        sign = 1 if score > 0 else -1  # of the verdict fake, or authentic
        tests = {}
        for name, values in maps.items():
            support = values if name == ATTENTION else sign * values
            patches = list(patch_grid(*support.shape))
            count = max(1, round(FLATTENED_FRACTION * len(patches)))
            highest = np.argsort([-support[patch].mean() for patch in patches])[:count]
            random = rng.choice(len(patches), count, replace=False)
            falls = []
            for chosen in (highest, random):
                changed = flattened(views[view], [patches[i] for i in chosen])
                after = self._explainer.score([*views[:view], changed, *views[view + 1 :]])[0]
                falls.append(float(sign * (score - after)))
            tests[name] = ImageTest(float(correlations[name]), *falls)
        return tests
