"""Measures videos: P(fake) of a video is the mean of P(fake) of its frames."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tfdetect.core.errors import UserError
from tfdetect.core.patterns import PathSearch
from tfdetect.core.run import Run
from tfdetect.core.run_results import VideoResult
from tfdetect.evaluation.measure import label_metrics

FOLDER = "folder"


class VideoNames:
    """Finds the video of which an image is a frame.

    Args:
        by: "folder", where each folder holds the frames of one video, or a regular expression
            (RE2's) that is searched in paths; its first group, or the whole match without one, is
            the video's name, and images without a match are frames of none.

    Raises:
        UserError: the expression is invalid.
    """

    def __init__(self, by: str):
        self.by = by
        try:
            self._search = None if by == FOLDER else PathSearch(by)
        except ValueError as error:
            raise UserError(f"--videos {by!r}: {error}") from error

    def find(self, paths: Sequence[str]) -> list[str | None]:
        """Return the video of each path; None where there is none."""
        if self._search is not None:
            return self._search.search(paths)
        return [path.rpartition("/")[0] for path in paths]


def measure_videos(table: pa.Table, run: Run, names: VideoNames) -> VideoResult:
    """Return the metrics of videos, with intervals over videos.

    Frames of one name that differ in dataset or label are of different videos.

    Args:
        table: predictions with the columns of `evaluate_run.complete`.
        run: the run with the threshold of the verdict.
        names: the names of the videos.

    Raises:
        UserError: no image that could be read is a frame of a video.
    """
    readable = table.filter(pc.is_null(table["error"])).select(
        ["path", "dataset", "label", "p_fake"]
    )
    found = pa.array(names.find(readable["path"].to_pylist()), pa.string())
    frames = readable.append_column("video", found).filter(found.is_valid())
    if not frames.num_rows:
        example = f", for example {table['path'][0].as_py()}" if table.num_rows else ""
        raise UserError(f"--videos {names.by!r} finds no video in the paths{example}.")
    groups = frames.group_by(["dataset", "label", "video"], use_threads=False)  # in their order
    videos = groups.aggregate([("p_fake", "mean")])
    videos = videos.rename_columns(["dataset", "label", "video", "p_fake"])
    return {
        "count": videos.num_rows, "frames": frames.num_rows, "by": names.by,
        "metrics": label_metrics(videos, run),
    }  # fmt: skip
