"""Train a detector with Keras's own `fit`: `create_detector` returns a plain keras.Model.

    python examples/keras_training_loop.py

The detector maps images in 0..255 to logits: {"label": [B, 1]} for two classes. Scaling happens
inside. Here it learns a planted difference: a checkerboard of 12 gray levels on random images.
"""

import numpy as np

import tfdetect


def make_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images float32 [count, 32, 32, 3] in 0..255, and labels [count, 1], 1 for fake."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 196, (count, 4, 4, 3)).repeat(8, 1).repeat(8, 2).astype("float32")
    labels = rng.integers(0, 2, (count, 1))
    checkerboard = np.indices((32, 32)).sum(0) % 2 * 24 - 12
    return images + labels[:, :, None, None] * checkerboard[None, :, :, None], labels


def main() -> None:
    detector = tfdetect.create_detector("small_resnet", image_size=32, classes=2)

    import keras  # after tfdetect, which sets TensorFlow up quietly

    keras.utils.set_random_seed(0)
    detector.compile(
        optimizer=keras.optimizers.Adam(0.002),
        loss={"label": keras.losses.BinaryCrossentropy(from_logits=True)},
        metrics={"label": [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]},
    )
    images, labels = make_images(256, seed=1)
    detector.fit(images, {"label": labels}, batch_size=32, epochs=3, verbose=0)

    images, labels = make_images(128, seed=2)
    logits = detector.predict(images, verbose=0)["label"]
    print(f"Accuracy on new images: {np.mean((logits > 0) == labels):.3f}")


if __name__ == "__main__":
    main()
