"""Command-line arguments that give mask makers their models and inputs."""

import argparse
from collections.abc import Sequence
from typing import Any

from tfdetect.core import cli
from tfdetect.core.errors import UserError


def add_mask_inputs(p: cli.Arguments, masks: Sequence[str]) -> None:
    """Add the arguments of mask makers that need a model or given segmentations.

    Args:
        masks: names of the mask makers that can be chosen.
    """
    # fmt: off
    if "segments" in masks:
        p.add_argument("--segmentations", metavar="DIR", help="mask 'segments': folder of PNG "
                       "files of region numbers, named like the photographs")
    p.add_argument("--segmenter", metavar="PRESET",
                   help="mask 'objects': a keras-hub segmentation preset")
    p.add_argument("--panoptic", metavar="FILE|DIR", help="mask 'panoptic': JSON file in COCO's "
                   "panoptic format, with its PNG files in a folder of the same name beside it, or "
                   "a folder of PNG files, named like the photographs")
    p.add_argument("--yolo", metavar="FILE", help="mask 'yolo': ONNX file of a YOLO network that "
                   "finds boxes or segments, for example from: yolo export "
                   "model=yolo11n-seg.pt format=onnx")
    p.add_argument("--person", metavar="FILE", help="mask 'person': MediaPipe's "
                   "selfie_segmentation.tflite (which is in the wheel of mediapipe 0.10.21), or "
                   "another .tflite segmenter; needs pip install \"tfdetect[litert]\"")
    # fmt: on


def mask_options_of(args: argparse.Namespace, masks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of mask makers that follow from the arguments, by name of the mask maker.

    Args:
        args: parsed arguments with those of `add_mask_inputs`.
        masks: names of the mask makers that are used.

    Raises:
        UserError: an argument of a used mask maker is missing, or one of another is given.
    """
    from tfdetect.synthesis.segmenters import PERSON_MODEL, YOLO_MODEL

    needed = {
        "segments": ("segmentations", getattr(args, "segmentations", None), "--segmentations DIR"),
        "panoptic": ("panoptic", args.panoptic, "--panoptic FILE or DIR"),
        "yolo": ("model", args.yolo, f"--yolo FILE: {YOLO_MODEL}"),
        "person": ("model", args.person, f"--person FILE: {PERSON_MODEL}"),
        "objects": ("preset", args.segmenter, "--segmenter PRESET"),
    }
    for name in masks:
        _, value, flag = needed.get(name, (None, None, None))
        if flag and not value and name != "objects":  # its preset has a default
            raise UserError(f"The mask {name!r} needs {flag}.")
    for name, (_, value, flag) in needed.items():
        if value and name not in masks:
            flag = flag.split()[0]
            raise UserError(f"{flag} is for the mask {name!r}. Add that mask, or leave out {flag}.")
    return {name: {key: value} for name, (key, value, _) in needed.items() if value}
