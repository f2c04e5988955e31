"""Work on a Spark cluster: the rows of one machine, whatever is killed meanwhile."""

import csv
import json
import os
import pickle
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import call
from conftest import SMALL, write_dataset, write_images
from PIL import Image
from spark_tasks import Names

import tfdetect
from tfdetect.core.columns import Column, Table
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.data import parallel
from tfdetect.evaluation import prediction_tables
from tfdetect.spark import dataset_jobs, executor, job, partitions, session

ROOT = Path(__file__).parent.parent
RUN = ROOT / "saved_models" / "cifake_small_resnet"


@pytest.fixture
def spark(monkeypatch):
    """Where pyspark and Java are: arguments of a command, whose workers find tfdetect."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    return ["--spark", "local[2]", "--spark-conf", "spark.ui.enabled=false"]


# --- partitions and parts


def test_partitions_have_neither_too_many_files_nor_too_many_bytes():
    small, large = 1000, partitions.MAX_BYTES + 1
    sizes = np.array([small] * 3000 + [large] + [small] * 10 + [0] * 5)
    bounds = partitions.divide(sizes)
    assert bounds[0] == 0 and bounds[-1] == len(sizes) and (np.diff(bounds) > 0).all()
    assert np.diff(bounds).max() <= partitions.MAX_ITEMS
    [alone] = [(a, b) for a, b in pairwise(bounds) if a <= 3000 < b]
    assert alone == (3000, 3001)
    assert partitions.divide(np.array([], int)).tolist() == [0]
    assert partitions.divide(np.array([5, 5, 5, 5]), max_bytes=10).tolist() == [0, 2, 4]


def some_job(folder, monkeypatch, names=("a", "b", "c", "d", "e"), what=None, size=2):
    monkeypatch.setattr(job, "divide", lambda sizes, most: partitions.divide(sizes, size))
    items = pa.table({"path": list(names)})
    what = what or {"task": "names"}
    return job.open_job(folder, what, items, np.zeros(len(names)), "--spark-dir")


def work_on(found, numbers):
    """Do partitions in this process, as a Python process of Spark does; returns the reports."""
    assignment = executor.Assignment(
        found.folder, found.id, pickle.dumps(Names()), (str(found.folder),), tfdetect.__version__, 1
    )  # fmt: skip
    batch = pa.record_batch([pa.array(numbers)], ["number"])
    try:
        return [row for b in executor.work(assignment, iter([batch])) for row in b.to_pylist()]
    finally:
        if executor._child is not None:
            executor._child.end()
        executor._child = None


def test_a_job_goes_on_with_the_parts_that_are_missing(tmp_path, monkeypatch, spark):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")  # restored afterwards
    names = ("a", "deadly", "c", "d", "e")
    found = some_job(tmp_path / "job", monkeypatch, names)
    assert sorted(found.missing()) == [0, 1, 2]
    assert [row["rows"] for row in work_on(found, [0, 1])] == [2, 2]
    assert found.missing() == [2]
    found.part(1).write_bytes(found.part(1).read_bytes()[:-20])  # a disk that lost its end
    again = some_job(tmp_path / "job", monkeypatch, names, size=1)  # the partitions stay
    assert again.id == found.id and sorted(again.missing()) == [1, 2]
    work_on(again, [1, 2])
    rows = pa.concat_tables(again.results()).to_pylist()
    assert [row["path"] for row in rows] == list(names)
    assert [row["error"] for row in rows] == [None, "ended", None, None, None]


def test_another_job_in_the_folder_is_refused(tmp_path, monkeypatch):
    some_job(tmp_path / "job", monkeypatch, ("x",))
    found = some_job(tmp_path / "job", monkeypatch)  # nothing was done yet
    assert found.total == 5
    pq.write_table(pa.table({"path": ["a", "b"]}), found.part(0))
    assert some_job(tmp_path / "job", monkeypatch).id == found.id
    with pytest.raises(UserError, match=r"5 files there, 4 files here.*--spark-dir"):
        some_job(tmp_path / "job", monkeypatch, ("a", "b", "c", "d"))
    with pytest.raises(UserError, match="5 files there, 5 files, some of them with another name"):
        some_job(tmp_path / "job", monkeypatch, ("a", "b", "c", "d", "f"))
    with pytest.raises(UserError, match='task "names" there, task "letters" here'):
        some_job(tmp_path / "job", monkeypatch, what={"task": "letters"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("Dear Sir")
    with pytest.raises(UserError, match="holds other files"):
        some_job(tmp_path / "other", monkeypatch)


def test_a_machine_without_the_files_or_with_another_version_says_so(tmp_path, monkeypatch):
    found = some_job(tmp_path / "job", monkeypatch)
    known = (found.folder, found.id, pickle.dumps(Names()))
    executor.Assignment(*known, (str(tmp_path),), tfdetect.__version__, 1).check()
    for change, message in (
        ((tmp_path / "gone", *known[1:], (), tfdetect.__version__, 1), "does not see .*gone"),
        ((known[0], "another", known[2], (), tfdetect.__version__, 1), "does not see .*job"),
        ((*known, (str(tmp_path / "photos"),), tfdetect.__version__, 1), "does not see .*photos"),
        ((*known, (), "0.0.1", 1), r"command has 0\.0\.1"),
    ):
        with pytest.raises(UserError, match=message):
            executor.Assignment(*change).check()


# --- the table of a command


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_written_in_parts_is_that_of_the_whole(tmp_path, suffix):
    table = Table({
        "path": Column.texts(["=a", "caf\U0010ffe9", "c"]),
        "p_fake": Column(np.array([0.1, 0.7, 0], np.float32), np.array([False, False, True])),
        "in_domain": Column(np.array([True, False, False]), np.array([False, False, True])),
        "error": Column.texts([None, None, "empty file"]),
    })  # fmt: skip
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    prediction_tables.write(table, whole)
    pieces = [Table.from_arrow(table.take([n]).to_arrow()) for n in range(3)]
    prediction_tables.write_all(pieces, parts)
    if suffix == ".parquet":
        assert pq.read_table(whole).equals(pq.read_table(parts))
    else:
        assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spark", "local"], "--spark needs --output FILE"),
        (["--spark", "local", "--output", "x.csv", "--masks", "m"], "without --masks"),
        (["--spark", "local", "--output", "x.csv", "--spark-conf", "memory=4g"], "memory=4g"),
        (["--spark-dir", "parts"], "--spark-dir is for --spark MASTER"),
    ],
)
def test_mistakes_are_named_before_anything_starts(arguments, message, tmp_path, capsys):
    code, _, error = call("predict", [RUN, tmp_path, *arguments], capsys)
    assert code == 2 and message in error and "Traceback" not in error


def test_missing_pyspark_and_java_have_one_message(tmp_path, monkeypatch, capsys):
    write_images(tmp_path / "images", 2, 0, side=32)
    arguments = [RUN, tmp_path / "images", "--output", tmp_path / "x.csv", "--spark", "local"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyspark", None)
        code, _, error = call("predict", arguments, capsys)
        assert code == 2 and "pip install 'tfdetect[spark]'" in error
    pytest.importorskip("pyspark")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, error = call("predict", arguments, capsys)
    assert code == 2 and "Java 17" in error and "Traceback" not in error
    assert not (tmp_path / "x.csv").exists()


# A command whose partitions are small, and whose images of a certain name end their process.
SCRIPT = """
import os, sys
import tfdetect.predict as command
from tfdetect.core.run_command import run_command
from tfdetect.spark import job, partitions, predict_table
from spark_tasks import DeadlyPredictFiles

most = int(os.environ["MAX_ITEMS"])
job.divide = lambda sizes, _: partitions.divide(sizes, most)
predict_table.PredictFiles = DeadlyPredictFiles
sys.exit(run_command(command.main))
"""


def test_spark_gives_the_table_of_one_machine(tmp_path, monkeypatch, capsys, spark):
    monkeypatch.setenv("MAX_ITEMS", "5")
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images" / "caf\udce9", 12, 0, side=32)
    (tmp_path / "images" / "junk.png").write_text("no image")
    (tmp_path / "images" / "nowhere.png").symlink_to(tmp_path / "gone")
    assert call("predict", [RUN, "images", "--output", "plain.csv"], capsys)[0] == 0
    arguments = [RUN, "images", "--output", "spark.csv"]
    command = [sys.executable, "-c", SCRIPT, *map(str, [*arguments, *spark])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "14 rows in spark.csv" in done.stdout and "2 of 14 files could not be" in done.stderr
    assert Path("spark.csv").read_bytes() == Path("plain.csv").read_bytes()
    assert len(list(Path("spark.csv.parts", "parts").iterdir())) == 3
    # All parts are there: the same command needs no Spark, and another one is refused.
    monkeypatch.setattr(session._Start, "run", lambda *_: pytest.fail("Spark starts"))
    Path("spark.csv").unlink()
    assert call("predict", [*arguments, "--spark", "spark://nowhere:1"], capsys)[0] == 0
    assert Path("spark.csv").read_bytes() == Path("plain.csv").read_bytes()
    code, _, error = call("predict", [*arguments, *spark, "--threshold", "0.9"], capsys)
    assert code == 2 and "another job" in error and "threshold 0.9 here" in error


def document(command, arguments, capsys):
    """The JSON document that a command prints."""
    code, out, error = call(command, arguments, capsys)
    assert code == 0, error
    return json.loads(out)


def small_partitions(monkeypatch):
    monkeypatch.setattr(job, "divide", lambda sizes, most: partitions.divide(sizes, min(most, 7)))


@pytest.fixture
def here(monkeypatch):
    """Arguments of a command whose tasks, as a machine receives them, work in this process.

    What Spark does with tasks is the same for all, and tested with `predict` and `prepare`.
    """
    small_partitions(monkeypatch)

    def run(session, found, task, *_):
        rows = pickle.loads(pickle.dumps(task)).start(1)
        with pq.ParquetFile(found.folder / job.ITEMS) as file:
            for number in found.missing():
                pq.write_table(rows(file.read_row_group(number)), found.part(number))

    monkeypatch.setattr(dataset_jobs, "run_job", run)
    return ["--spark", "local"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of py4j
def test_shards_of_a_cluster_are_those_of_one_machine(tmp_path, monkeypatch, capsys, spark):
    small_partitions(monkeypatch)
    root = write_dataset(tmp_path / "pictures", side=32)
    (root / "train" / "real" / "junk.png").write_text("no image")
    for output, more in (("plain", ()), ("spark", spark)):
        arguments = ["--dataset", root, "--output", tmp_path / output, "--shard-size", "0.02",
                     "--size", "24", *more]  # fmt: skip
        code, out, error = call("prepare", arguments, capsys)
        assert code == 0, error
        assert "1 image skipped" in out
    folders = [tmp_path / output / "pictures" / "1.0.0" for output in ("plain", "spark")]
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1] and sum("tfrecord" in name for name in names[0]) > 8
    for name in names[0]:
        if name not in ("prepared.json", "shards.jsonl"):  # times, and the order of writing
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert not (tmp_path / "spark.parts").exists()
    code, out, _ = call("prepare", arguments, capsys)  # complete: no Spark is needed
    assert code == 0 and "0 shards written now" in out


def test_forgeries_of_a_cluster_are_those_of_one_machine(tmp_path, capsys, here):
    write_images(tmp_path / "photos", 6, 0, side=64)
    (tmp_path / "photos" / "junk.png").write_text("no image")
    for output, more in (("plain", ()), ("spark", here)):
        # The splits depend on the name.
        arguments = ["--source", tmp_path / "photos", "--output", tmp_path / output / "set",
                     "--masks", "rectangle,blob", "--fill", "copy_move,splice", *more]  # fmt: skip
        code, _, error = call("synthesize", arguments, capsys)
        assert code == 0 and "skipped: junk.png" in error, error
    plain, other = tmp_path / "plain" / "set", tmp_path / "spark" / "set"
    names = sorted(path.relative_to(plain) for path in plain.rglob("*") if path.is_file())
    assert sum(name.parts[0] == "images" for name in names) > 10
    for name in names:
        if not name.name.startswith("."):  # the order of making
            assert (plain / name).read_bytes() == (other / name).read_bytes(), name
    assert not other.with_name("set.parts").exists()


def test_an_audit_on_a_cluster_is_that_of_one_machine(tmp_path, monkeypatch, capsys, here):
    root = write_dataset(tmp_path / "pictures", side=32)
    (root / "train" / "real" / "junk.png").write_text("no image")
    for number, path in enumerate(sorted((root / "train" / "real").glob("0*"))[:6]):
        with Image.open(path) as image:  # near duplicates
            image.save(root / "test" / "real" / f"copy{number}.jpg", quality=90)
    jobs = []
    for output, more in (("plain", ()), ("spark", here)):
        monkeypatch.setenv("TFDETECT_CACHE", str(tmp_path / f"cache of {output}"))
        arguments = ["--dataset", root, "--output", tmp_path / output, *more]
        assert call("audit", arguments, capsys)[0] in (0, 1)
        monkeypatch.setattr(parallel, "_MIN_FILES", 1)  # below, the command itself reads them
        run = dataset_jobs.run_job
        monkeypatch.setattr(dataset_jobs, "run_job",
                            lambda *a, run=run: (jobs.append(a[4]), run(*a)))  # fmt: skip
    assert jobs == ["inspecting files", "reading image traits", "comparing similar images"]
    plain, other = (tmp_path / name for name in ("plain", "spark"))
    for name in ("audit.json", "duplicates.csv", "traits.parquet"):
        assert (plain / name).read_bytes() == (other / name).read_bytes(), name
    assert "near" in (plain / "duplicates.csv").read_text()
    assert not other.with_name("spark.parts").exists()


@pytest.mark.slow
def test_a_matrix_trained_on_a_cluster_is_that_of_one_machine(tmp_path, capsys, here):
    for generator in "ab":
        for split, count in (("train", 16), ("test", 6)):
            for name, fake in (("nature", 0), ("ai", 1)):
                write_images(tmp_path / "images" / generator / split / name, count, fake,
                             seed=ord(generator) + count)  # fmt: skip
    settings = [part for text in [*SMALL, "training.epochs=1"] for part in ("--set", text)]
    arguments = ["--dataset", tmp_path / "images", "--by", "^([ab])/", *settings, "--json",
                 "--quiet", "--output"]  # fmt: skip
    found = [
        document("matrix", [*arguments, tmp_path / output, *more], capsys)
        for output, more in (("plain", ()), ("spark", here))
    ]
    for name, row in found[0]["cells"].items():
        for domain, cell in row.items():
            other = found[1]["cells"][name][domain]["metrics"]["auc"]["value"]
            assert abs(cell["metrics"]["auc"]["value"] - other) < 1e-3
    [folder] = (tmp_path / "spark").iterdir()  # the parts are removed
    assert open_run(folder / "a").info.status == "complete"


@pytest.mark.slow
def test_an_explanation_on_a_cluster_is_that_of_one_machine(shared_run, tmp_path, capsys, here):
    run, root = shared_run
    arguments = [run.path, "--dataset", root, "--count", "12", "--json", "--quiet", "--output"]
    plain, other = (
        document("explain", [*arguments, tmp_path / name, *more], capsys)
        for name, more in (("plain", ()), ("spark", here))
    )
    assert plain["count"] == other["count"] == 12 and plain["maps"]
    for name, values in plain["maps"].items():
        for key in ("shuffled", "fall", "random"):
            assert abs(values[key] - other["maps"][name][key]) <= 1e-3, (name, key)


@pytest.mark.slow
def test_an_evaluation_part_by_part_measures_what_the_whole_does(
    shared_run, tmp_path, capsys, here
):
    root = write_dataset(tmp_path / "pictures")
    (root / "test" / "real" / "junk.png").write_text("no image")
    run, _ = shared_run
    arguments = [run.path, "--dataset", root, "--split", "all", "--json", "--quiet"]
    arguments += ["--output"]
    whole, parts = (
        document("evaluate", [*arguments, tmp_path / name, *more], capsys)["all"]
        for name, more in (("whole", ()), ("parts", [*here, "--streaming"]))
    )
    assert parts["count"] == whole["count"] and parts["confusion"] == whole["confusion"]
    for name, value in parts["metrics"].items():
        error = parts["auc_error_bound"] if name == "auc" else 1e-6
        assert abs(value - whole["metrics"][name]["value"]) <= error + 1e-6, name
    assert json.loads((tmp_path / "parts" / "streamed.json").read_text())["all"] == parts
    code, _, error = call("evaluate", [run.path, "--streaming"], capsys)
    assert code == 2 and "--streaming is for --spark" in error


# --- a cluster of real processes


@pytest.fixture(scope="module")
def standalone(tmp_path_factory):
    """A master and two workers of one core each, as processes of this machine."""
    pyspark = pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    home, folder = Path(pyspark.__file__).parent, tmp_path_factory.mktemp("cluster")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "MAX_ITEMS": "50",
    }  # fmt: skip
    master, deploy = f"spark://127.0.0.1:{port}", "org.apache.spark.deploy"
    commands = [[f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", str(port),
                 "--webui-port", "0"]]  # fmt: skip
    commands += [
        [f"{deploy}.worker.Worker", "--cores", "1", "--memory", "1g", "--webui-port", "0",
         "--work-dir", str(folder / f"worker{number}"), master]
        for number in range(2)
    ]  # fmt: skip
    log = (folder / "log").open("wb")
    running = [
        subprocess.Popen([home / "bin" / "spark-class", *command], env=environment, stdout=log,
                         stderr=log)
        for command in commands
    ]  # fmt: skip
    try:
        until = time.monotonic() + 600
        while (folder / "log").read_text(errors="replace").count("Registering worker") < 2:
            assert time.monotonic() < until and all(p.poll() is None for p in running)
            time.sleep(0.5)
        yield master, running[1:], environment
    finally:
        for process in running:
            process.terminate()
            process.wait(60)
        log.close()


@pytest.fixture(scope="module")
def many_images(tmp_path_factory):
    """2,000 images, one of them of 100 megapixels, one deadly, and their table by one machine."""
    folder = tmp_path_factory.mktemp("many")
    for fake in (0, 1):
        write_images(folder / "images" / str(fake), 1000, fake, side=32, seed=fake)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    image = Image.effect_noise((10_000, 9_999), 60)
    image.save(folder / "images" / "large.jpg")
    command = [sys.executable, "-m", "tfdetect.predict", RUN, "images", "--output", "plain.csv"]
    subprocess.run(command, check=True, cwd=folder, env=environment)
    write_images(folder / "deadly", 1, 0, side=32)
    (folder / "deadly" / "000.png").rename(folder / "images" / "deadly.png")
    return folder


def start(folder, standalone, output, *more):
    """Start the command with small partitions on the cluster; returns its process."""
    master, _, environment = standalone
    command = [sys.executable, "-c", SCRIPT, RUN, "images", "--output", output, "--spark", master,
               "--spark-conf", "spark.task.maxFailures=20", *more]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def check_table(folder, output):
    """Check that a table has the rows of one machine, and one of the deadly image."""
    tables = [list(csv.DictReader((folder / name).read_text().splitlines()))
              for name in (output, "plain.csv")]  # fmt: skip
    [deadly] = [row for row in tables[0] if "deadly" in row["path"]]
    assert "the process that read it ended" in deadly["error"]
    tables[0].remove(deadly)
    assert len(tables[0]) == len(tables[1])
    for one, other in zip(*tables):
        for name, value in one.items():
            if value != other[name]:  # sums over batches of another size
                limit = 1e-5 if name == "feature_distance" else 1e-6
                assert abs(float(value) - float(other[name])) <= limit, (name, one, other)


def finished(folder, output):
    return len(list((folder / f"{output}.parts" / "parts").glob("[0-9]*.parquet")))


def end(process):
    """Wait for a command to end well."""
    error = process.communicate(timeout=1200)[1]
    assert process.returncode == 0, error[-3000:]


@pytest.mark.slow
def test_a_driver_that_is_killed_ten_times_loses_and_repeats_nothing(standalone, many_images):
    rng, output, seen = random.Random(7), "driver.csv", set()
    for _ in range(10):
        process, before = start(many_images, standalone, output), finished(many_images, output)
        until = time.monotonic() + 600
        while finished(many_images, output) == before and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        parts = many_images / f"{output}.parts" / "parts"
        stamps = {(p.name, p.stat().st_mtime_ns) for p in parts.glob("[0-9]*.parquet")}
        assert seen <= stamps  # what was finished is not done again
        seen = stamps
        time.sleep(3)  # its executors end
        seen = {(p.name, p.stat().st_mtime_ns) for p in parts.glob("[0-9]*.parquet")}
    end(start(many_images, standalone, output))
    check_table(many_images, output)


@pytest.mark.slow
def test_executors_that_are_killed_ten_times_lose_and_repeat_nothing(standalone, many_images):
    rng, output, kills = random.Random(11), "executor.csv", 0
    process = start(many_images, standalone, output)
    while kills < 10 and process.poll() is None:
        before = finished(many_images, output)
        while finished(many_images, output) <= before and process.poll() is None:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.5))
        victims = [
            child for worker in standalone[1] for child in psutil.Process(worker.pid).children()
            if "CoarseGrainedExecutorBackend" in " ".join(child.cmdline())
        ]  # fmt: skip
        if victims and process.poll() is None:
            rng.choice(victims).send_signal(signal.SIGKILL)
            kills += 1
    end(process)
    assert kills == 10
    check_table(many_images, output)


@pytest.mark.slow
def test_ctrl_c_ends_a_job_and_its_processes(standalone, many_images):
    output = "stopped.csv"
    process = start(many_images, standalone, output)
    while not finished(many_images, output):
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and "Stopped" in error and "Traceback" not in error
    psutil.wait_procs(family, 60)
    assert not any(each.is_running() for each in family)
    until = time.monotonic() + 300
    while any("Executor" in " ".join(child.cmdline()) for worker in standalone[1]
              for child in psutil.Process(worker.pid).children()):  # fmt: skip
        assert time.monotonic() < until
        time.sleep(0.2)
    end(start(many_images, standalone, output))
    check_table(many_images, output)
