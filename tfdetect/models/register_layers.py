"""Registers the layers of this package with Keras, when it is imported.

Keras finds the layers in a .keras file only if they are registered. `import tfdetect` does it as
soon as Keras is imported, too:

    import keras
    import tfdetect

    network = keras.saving.load_model("saved_models/RUN/model.keras")
"""

import importlib

from tfdetect.core import registry

_REGISTRIES = (registry.FRONT_ENDS, registry.BACKBONES, registry.HEADS, registry.MASK_HEADS)

for _registry in _REGISTRIES:
    for _name in _registry.built_in:
        importlib.import_module(_registry[_name].module)
importlib.import_module("tfdetect.models.verdict_model")
