"""Functions of the Python API that write a run's detector for other software."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfdetect.api.arguments import RunLike, own_run, path_of, run_of
from tfdetect.api.checked import checked
from tfdetect.core.quiet import import_tensorflow
from tfdetect.core.run_writer import updating

if TYPE_CHECKING:
    from tfdetect.models.exports import Export


@checked
def export(run: RunLike, formats: Sequence[str] | None = None) -> list[Export]:
    """Export the detector of a run from its Keras model, with its calibration and threshold.

    Every export is compared with the Keras model on photographs when it is written.

    Args:
        formats: "saved_model", "saved_model_webp", "keras", "onnx", "onnx_shared", "onnx_float16",
            "litert", "litert_float16", "litert_int8" or "openvino"; by default the SavedModel and
            those that the run has.

    Returns:
        The format, path, size and largest difference of a probability, of each export.

    Raises:
        UserError: a format is unknown, its packages are missing, it cannot express the detector,
            or the probabilities differ by more than the format's tolerance.
    """
    run = own_run(run)
    import_tensorflow()
    from tfdetect.models.exports import check_format, exported_formats, write_exports

    if formats is None:
        formats = ["saved_model", *exported_formats(run)]
    formats = list(dict.fromkeys(formats))
    for name in formats:
        check_format(name)
    with updating(run) as staged:
        return write_exports(staged, formats or ["saved_model"])


@checked
def export_web(
    run: RunLike, output: str | Path | None = None, *, npm_packages: str | Path | None = None
) -> Path:
    """Write a folder for any static web host, whose page analyzes images in the browser.

    Args:
        run: a run with an ONNX export. TensorFlow is not needed.
        output: folder to write; by default the run's name and "-web", in the current directory.
            An earlier web export in it is replaced.
        npm_packages: folder with the archives that `npm pack` wrote of ONNX Runtime and the image
            decoders; by default npm fetches them, once.

    Returns:
        The page, `index.html` in the folder.

    Raises:
        UserError: the run has no ONNX export, a package is missing, or the folder is none that
            may be replaced.
    """
    run = run_of(run)
    folder = path_of(output) or Path(f"{run.name}-web")
    from tfdetect.serving.web_export import write_web

    return write_web(run, folder, path_of(npm_packages))
