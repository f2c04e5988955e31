"""Videos: their P(fake) is the mean over frames, as DeepfakeBench computes it."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk

from tfdetect.core.errors import UserError
from tfdetect.core.run_command import run_command
from tfdetect.evaluate import main as evaluate_command
from tfdetect.evaluation.videos import VideoNames, measure_videos

RUN = SimpleNamespace(threshold=0.5, info=SimpleNamespace(prior=None))


def predictions(count=60, frames=5):
    """Frames of real and fake videos; some were not read, and both classes have equal names."""
    draw = np.random.default_rng(0)
    labels = np.arange(count) % 2
    means = 0.25 * draw.normal(size=count) + 0.35 + 0.3 * labels
    scores = np.clip(means[:, None] + 0.2 * draw.normal(size=(count, frames)), 0, 1)
    errors = np.where(np.arange(count * frames) % 7 == 3, "unreadable", None)
    table = pa.table({
        "path": [f"{('real', 'fake')[label]}/{number // 2:03}/{frame}.png"
                 for number, label in enumerate(labels) for frame in range(frames)],
        "dataset": pa.array(["faces"] * count * frames).dictionary_encode(),
        "label": np.repeat(labels, frames),
        "p_fake": np.where(errors == None, scores.ravel(), np.nan),  # noqa: E711
        "error": pa.array(errors.tolist(), pa.string()),
    })  # fmt: skip
    return table, labels, np.nanmean(table["p_fake"].to_numpy().reshape(count, frames), axis=1)


@pytest.mark.parametrize("by", ["folder", r"(\d{3})/"])
def test_a_video_is_the_mean_of_its_readable_frames(by):
    table, labels, means = predictions()
    found = measure_videos(table, RUN, VideoNames(by))
    assert (found["count"], found["frames"]) == (60, table["error"].null_count)
    assert found["metrics"]["auc"]["value"] == pytest.approx(sk.roc_auc_score(labels, means))
    accuracy = ((means >= 0.5) == labels).mean()
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    frames = table.filter(pa.compute.is_null(table["error"]))
    of_frames = sk.roc_auc_score(frames["label"], frames["p_fake"])
    assert found["metrics"]["auc"]["value"] > of_frames  # the noise of frames is averaged out
    again = measure_videos(table, RUN, VideoNames(by))
    assert found == again


def test_images_that_are_no_frames_are_left_out():
    table, _, _ = predictions()
    found = measure_videos(table, RUN, VideoNames("real/(00.)/"))
    assert found["count"] == 10 and list(found["metrics"]) == ["fpr"]
    with pytest.raises(UserError, match="finds no video in the paths, for example real/000/0.png"):
        measure_videos(table, RUN, VideoNames("clip_"))
    with pytest.raises(UserError, match="not a regular expression"):
        VideoNames("(")


def test_evaluate_measures_videos(shared_run, tmp_path, capsys):
    run, root = shared_run
    arguments = [str(run.path), "--data-dir", str(root), "--output", str(tmp_path), "--no-images"]
    of_test = [*arguments, "--split", "test", "--videos", r"(\d)\.png"]
    assert run_command(evaluate_command, of_test) == 0
    assert "20 videos" in capsys.readouterr().out
    found = json.loads((tmp_path / "metrics.json").read_text())["test"]["videos"]
    assert found["frames"] == 32 and found["count"] == 20 and found["metrics"]["auc"]
    assert "Intervals of videos are over videos" in (tmp_path / "report.html").read_text()
    assert run_command(evaluate_command, [*arguments, "--videos", "("]) == 2
    assert run_command(evaluate_command, [*arguments, "--videos", "x", "--degrade", "blur:3"]) == 2
    assert "takes no --label, --videos" in capsys.readouterr().err
