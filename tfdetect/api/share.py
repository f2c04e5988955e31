"""`push`: a run on Hugging Face's or Kaggle's hub, for others to load."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tfdetect.api.arguments import RunLike, run_of
from tfdetect.api.checked import checked
from tfdetect.core.errors import UserError
from tfdetect.core.files import write_text
from tfdetect.core.model_hubs import (
    HubAddress,
    card_header,
    check_keras_files,
    push_files,
    safe_files,
)
from tfdetect.core.parsing import read_text
from tfdetect.core.text import printable, shell_command


@checked
def push(
    run: RunLike, target: str, *, private: bool = False, license_name: str | None = None
) -> str:
    """Upload a run to a hub, with a model card, so that others can load it by its address.

    What may say something about your machine stays here: directories, the command, predictions of
    single images and logs. Log in before, with `hf auth login`, `kagglehub.login()` or the
    environment variables of these packages.

    Args:
        target: "hf://USER/REPOSITORY", with "@BRANCH" for another branch than main, or
            "kaggle://USER/MODEL/FRAMEWORK/VARIATION".
        private: whether a new repository of Hugging Face is private. On Kaggle a new model is
            private until you publish it there.
        license_name: license of the model, as the hub calls it, such as "mit"; None to name none.

    Returns:
        The address, on Hugging Face with the commit.

    Raises:
        UserError: the address is wrong, a package is missing, the run has no ONNX export or its
            Keras model contains code, or the hub does not accept it.
    """
    address = HubAddress.parse(target)
    if address is None:
        raise UserError(
            f"{printable(target)!r:.200} is not an address on a hub. Write hf://USER/REPOSITORY or "
            "kaggle://USER/MODEL/FRAMEWORK/VARIATION."
        )
    run = run_of(run)
    if run.onnx_path is None:
        raise UserError(
            f"{run.name} has no ONNX export, which others need to predict without TensorFlow. "
            f"Write it with: {shell_command('export', run.path, format='onnx')}"
        )
    check_keras_files(run.path, run.name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "run")
        for name in safe_files(run.path):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.path / name, folder / name)
        write_text(folder / "run.json", run.public_info().model_dump_json(indent=2) + "\n")
        card = run.path / "model_card.md"
        text = read_text(card) if card.is_file() else f"# {run.name}\n"
        header = card_header(run.name, run.results, run.info.dataset.name, license_name)
        write_text(folder / "README.md", header + "\n" + text + _how_to_load(address))
        return str(push_files(folder, address, private, license_name))


def _how_to_load(address: HubAddress) -> str:
    address = HubAddress(address.hub, address.path)
    return (
        "\n## Load it\n\n```python\nimport tfdetect  # pip install tfdetect-light\n\n"
        f'detector = tfdetect.load("{address}")\nprint(detector.predict("photo.jpg"))\n```\n'
    )
