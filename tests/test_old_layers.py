"""Layers of .keras files from before version 0.2 load with their old names and options."""

import json
import zipfile

import keras
import numpy as np
import pytest

from tfdetect.models.nearest_neighbors import Neighbors
from tfdetect.models.top_pixels import TopPixels


def with_old_options(path, folder, options):
    """A copy of a .keras file whose configuration has the old names of options."""
    old = folder / "old.keras"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                text = data.decode()
                for new, before in options.items():
                    assert f'"{new}":' in text
                    text = text.replace(f'"{new}":', f'"{before}":')
                data = json.dumps(json.loads(text)).encode()
            target.writestr(name, data)
    return old


@pytest.mark.parametrize(
    ("layer", "shape", "options"),
    [
        (TopPixels(fraction=0.25, name="label"), (8, 8, 1), {"fraction": "share"}),
        (Neighbors(1, 2, 10, "all", name="label"), (5,),
         {"bank_size": "bank", "reference": "known"}),
    ],
)  # fmt: skip
def test_old_options(layer, shape, options, tmp_path):
    image = keras.Input(shape)
    model = keras.Model(image, layer(image))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.random(weight.shape))
    model.save(tmp_path / "new.keras")
    old = with_old_options(tmp_path / "new.keras", tmp_path, options)
    again = keras.saving.load_model(old)
    x = rng.random((3, *shape)).astype(np.float32)
    np.testing.assert_array_equal(again(x), model(x))
    assert {k: v for k, v in again.get_layer("label").get_config().items() if k in options} == {
        k: v for k, v in layer.get_config().items() if k in options
    }
