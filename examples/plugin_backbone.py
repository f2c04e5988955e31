"""A plug-in: a backbone that tfdetect does not have, registered from a separate file.

Use it by its name, here `tiny_convnet`:

    python -m tfdetect.train --dataset demo --experiment examples/plugin_experiment.yaml

or in Python: `tfdetect.load_plugin("examples/plugin_backbone.py")`, then
`tfdetect.create_detector("tiny_convnet", image_size=64)`. A run never executes the plug-in that it
names by itself. To use such a run later, name the plug-in:

    export TFDETECT_PLUGINS=examples/plugin_backbone.py
    python -m tfdetect.predict saved_models/plugin photo.jpg
"""

import keras

import tfdetect


# Facts that are known without building it: the smallest side, of what each side must be a
# multiple, how pixels in 0..255 are scaled, and which pretrained weights there are.
@tfdetect.register_backbone(
    "tiny_convnet", min_size=16, multiple=4, scale=1 / 127.5, offset=-1.0, presets=()
)
def tiny_convnet(shape, weights, *, width=16):
    """Return a model from scaled images [B, height, width, channels] to features [B, h, w, c].

    Args:
        shape: (height, width, channels) of an image.
        weights: "none"; there are no pretrained weights.
        width: number of channels of the first layer.
    """
    image = x = keras.Input(shape)
    for stage in range(3):
        x = keras.layers.Conv2D(width * 2**stage, 3, strides=1 + (stage > 0), padding="same")(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.Activation("relu")(x)
    return keras.Model(image, x, name="tiny_convnet")
