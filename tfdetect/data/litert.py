"""Run image networks in the format of LiteRT, such as those of MediaPipe."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from tfdetect.core.errors import ModelNotAvailable
from tfdetect.core.quiet import silent_libraries


def mediapipe_file(name: str) -> str:
    """Return a description of a file of MediaPipe, and where to download it."""
    return (
        f"{name} of MediaPipe, which is in a wheel on PyPI: pip download mediapipe==0.10.21 "
        "--no-deps --only-binary :all: --python-version 3.12, then unzip -j "
        f"mediapipe-0.10.21-*.whl '*/{name}'"
    )


class LiteRT:
    """A network that takes one image float32 [1, h, w, 3]. It is not thread-safe.

    Args:
        file: a .tflite file.

    Attributes:
        size: height and width of its input.

    Raises:
        ModelNotAvailable: the file or LiteRT is missing, or the network takes something else.
    """

    def __init__(self, file: str):
        if not Path(file).is_file():
            raise ModelNotAvailable(
                f"There is no file {file}. Give {mediapipe_file('NAME.tflite')}"
            )
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ModuleNotFoundError as error:
            raise ModelNotAvailable(
                'A .tflite file needs LiteRT: pip install "tfdetect[litert]"'
            ) from error
        try:
            with silent_libraries():  # LiteRT says which delegate it has made
                self._network = Interpreter(file, num_threads=1)
                self._network.allocate_tensors()
            [given] = self._network.get_input_details()
        except (ValueError, RuntimeError) as error:
            raise ModelNotAvailable(
                f"{file} is no LiteRT model that can be run: {error}"
            ) from error
        batch, *size, channels = given["shape"].tolist()
        if (batch, len(size), channels, given["dtype"]) != (1, 2, 3, np.float32):
            raise ModelNotAvailable(f"{file} does not take images float32 [1, h, w, 3].")
        self.size: tuple[int, int] = (size[0], size[1])

    def __call__(self, image: np.ndarray, low: float = 0) -> list[np.ndarray]:
        """Return the network's outputs for an image, without their batch.

        Args:
            image: uint8 [h, w, 3].
            low: what the network takes 0 as; it takes 255 as 1.
        """
        [given] = self._network.get_input_details()
        pixels = image[None].astype(np.float32) / 255 * (1 - low) + low
        self._network.set_tensor(given["index"], pixels)
        self._network.invoke()
        return [
            self._network.get_tensor(each["index"])[0]
            for each in self._network.get_output_details()
        ]


@lru_cache(2)
def load_litert(file: str) -> LiteRT:
    """Return the network of a file, which is loaded once; see `LiteRT`."""
    return LiteRT(file)
