"""The shipped SavedModels in older releases of TensorFlow, each in an environment of its own."""

import json
import subprocess
import venv
from pathlib import Path

import pytest

import tfdetect
from tfdetect.imaging.photographs import photograph

SHIPPED = Path(__file__).parents[1] / "saved_models"
READ = """
import json, sys
import tensorflow as tf
runs, files = sys.argv[1].split(","), sys.argv[2:]
data = tf.stack([tf.io.read_file(path) for path in files])
found = {}
for run in runs:
    out = tf.saved_model.load(run + "/saved_model").signatures["encoded"](encoded_images=data)
    found[run] = [out["p_fake"].numpy().tolist(), [v.decode() for v in out["verdict"].numpy()],
                  [e.decode() for e in out["error"].numpy()]]
print(tf.__version__, file=sys.stderr)
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2.15.1", "2.18.1"])
def test_savedmodels_load_in_older_releases(version, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    wanted = [f"tensorflow-cpu=={version}", "setuptools<81"]
    installed = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], text=True,
                               capture_output=True)  # fmt: skip
    if installed.returncode:
        pytest.skip(f"TensorFlow {version} cannot be installed here: {installed.stderr[-300:]}")
    files = []
    for name, suffix in (("rocket", "jpg"), ("flower", "png"), ("grace_hopper", "bmp")):
        files.append(tmp_path / f"{name}.{suffix}")
        photograph(name).save(files[-1])
    files.append(tmp_path / "rubbish.jpg")
    files[-1].write_bytes(b"rubbish")
    runs = [run for run in sorted(SHIPPED.iterdir()) if (run / "saved_model").is_dir()]
    done = subprocess.run([python, "-c", READ, ",".join(map(str, runs)), *map(str, files)],
                          text=True, capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert version in done.stderr
    for run, (scores, verdicts, errors) in json.loads(done.stdout).items():
        expected = list(tfdetect.load(run).predict(files[:3], progress=False))
        assert scores[:3] == pytest.approx([row["p_fake"] for row in expected], abs=2e-3), run
        assert verdicts[:3] == [row["verdict"] for row in expected], run
        assert errors[:3] == [""] * 3 and errors[3], run
