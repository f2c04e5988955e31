"""Say which distribution or extra to install when a package is missing."""

import importlib.util
from pathlib import Path

from tfdetect.core.errors import UserError
from tfdetect.core.text import shell_command

FULL = {  # import names of what `tfdetect` requires and `tfdetect-light` does not
    "ai_edge_litert", "absl", "cv2", "hyperopt", "imagehash", "jinja2", "kagglehub", "keras",
    "keras_hub", "markupsafe", "matplotlib", "onnx", "pyarrow", "pynvml", "scipy", "skimage",
    "sklearn", "tensorboard", "tensorflow", "tensorflow_datasets", "tf2onnx",
}  # fmt: skip
SERVER = {
    "fastapi", "fastapi_offline", "prometheus_client", "python_multipart", "starlette", "uvicorn",
}  # fmt: skip
# The distribution that this is, and its console script.
PROGRAM = "tfdetect-light" if "tfdetect_light" in Path(__file__).parts else "tfdetect"


def with_extra(name: str) -> str:
    """Return the requirement of an extra of this distribution, such as "tfdetect[spark]"."""
    return f"{PROGRAM}[{name}]"


def has_tensorflow() -> bool:
    """Return whether TensorFlow and `tfdetect.models` are installed; neither is imported."""
    return all(map(importlib.util.find_spec, ("tensorflow", "tfdetect.models")))


def full_command(name: str, /, *arguments: object, **flags: object) -> str:
    """Return the line for a shell of a command that tfdetect-light lacks; there, what to install.

    Args:
        name, arguments, flags: see `core.text.shell_command`.
    """
    command = shell_command(name, *arguments, **flags)
    if has_tensorflow():
        return command
    return f"{command} (tfdetect-light has no {name}; the full tfdetect has: pip install tfdetect)"


def missing_package(error: ModuleNotFoundError) -> UserError | None:
    """Return an error that says what to install for a missing package.

    None if no distribution or extra of tfdetect has the package.
    """
    full = (error.name or "").split(".")
    name = full[0]
    if name in SERVER:
        return UserError(
            f"The server needs the package {name}. Install tfdetect with its extra: "
            'pip install "tfdetect[serve]" or "tfdetect-light[serve]".'
        )
    if name in FULL:
        problem = f"This needs the package {name}, which is not installed"
    elif name == "tfdetect" and len(full) > 1:
        if has_tensorflow():
            return UserError(
                f"Python does not find {error.name}, a part of tfdetect: another folder named "
                "tfdetect hides it, or it is installed incompletely. Start Python in another "
                "folder, or install tfdetect again."
            )
        problem = f"{'.'.join(full[:2])} is not part of tfdetect-light"
    else:
        return None
    return UserError(
        f"{problem}. tfdetect-light gives verdicts and masks by exported runs (predict, serve). "
        "For everything else: pip install tfdetect"
    )
