"""Puts the package tfdetect inside of tfdetect_light, and the path to it into site-packages.

So this distribution and the full one have no file in common: each can be installed and removed
beside the other. Python finds the full one first.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

PATH_FILE = "tfdetect_light.pth"
FOLDERS = ("data_specs", "experiments", "saved_models")
INNER = "tfdetect_light.tfdetect"
# Packages of tfdetect that only make and measure detectors; the tests predict without them.
LEFT_OUT = (
    "auditing", "benchmarks", "fusion", "generalization", "models", "spark", "synthesis",
    "training", "tuning",
)  # fmt: skip


class BuildWithPathFile(build_py):
    """Adds the file by which Python finds the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copy(PATH_FILE, self.build_lib)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib, PATH_FILE))]


# The shipped runs, and the network of each that predicts.
RUNS = {
    "cifake_small_resnet": ["exports/detector_float16.onnx"],
    "localizer_photos": ["exports/detector.onnx"],
    "photo_detector": ["detector.onnx", "model.keras"],  # which has the weights
}


def runs(*files: str) -> list[str]:
    """Return these files of each shipped run, and its network."""
    return [f"{name}/{file}" for name, network in RUNS.items() for file in (*files, *network)]


rooms = find_packages(
    include=["tfdetect", "tfdetect.*"],
    exclude=[f"tfdetect.{name}{below}" for name in LEFT_OUT for below in ("", ".*")],
)
setup(
    cmdclass={"build_py": BuildWithPathFile},
    include_package_data=False,  # only what is listed here
    packages=[
        "tfdetect_light",
        *(f"tfdetect_light.{name}" for name in rooms),
        *(f"{INNER}.{name}" for name in FOLDERS),
    ],
    package_dir={INNER: "tfdetect"} | {f"{INNER}.{name}": name for name in FOLDERS},
    package_data={
        f"{INNER}.core": ["pages/*"],
        f"{INNER}.data_specs": ["*.yaml"],
        f"{INNER}.experiments": ["**/*.yaml"],
        f"{INNER}.forensics": ["error_rates.json"],
        f"{INNER}.serving": ["static/*", "templates/*", "texts/*", "web/*"],
        f"{INNER}.saved_models": runs("*.json", "*.yaml", "*.npy", "*.txt", "model_card.md"),
    },
)
