"""Several worker processes train one detector: the same weights as one process."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
import tensorflow as tf
from commands import call
from conftest import SMALL, fit_small, write_dataset
from test_masks import LOCALIZER, write_forged

from tfdetect.core import cluster as cluster_of
from tfdetect.core.cluster import Cluster, parse_cluster
from tfdetect.core.data_settings import Augmentation
from tfdetect.core.errors import UserError
from tfdetect.core.open_run import open_run
from tfdetect.core.registry import AUGMENTATIONS
from tfdetect.core.rendezvous import meet
from tfdetect.data.augmentation import augment
from tfdetect.data.plan import find_data, make_plan
from tfdetect.data.training_data import training_data
from tfdetect.data.validation_stream import validation_data
from tfdetect.imaging.draws import Part, drawing_for
from tfdetect.training import workers
from tfdetect.training.devices import configure_devices
from tfdetect.training.workers import Workers

TESTS = Path(__file__).parent
SGD = "training.optimizer={name: sgd, learning_rate: 0.05}"
# Sums over a batch are formed in another order (1e-6 of a weight); where that moves one input of a
# ReLU across 0, its gradient jumps (3e-4). MixUp with an alpha of 0.21 for 0.2 differs by 2e-3.
TOLERANCE = 1e-3


def addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return tuple(f"127.0.0.1:{port}" for port in ports)


class Training:
    """Workers that train together; `count` 1 trains in one process, `where` [N] N replicas.

    With `forked` they are forks of one process, which takes less time.
    """

    def __init__(self, root, work, count, *overrides, where=None, within=([],) * 4, forked=False):
        self.folders = [work / str(task) for task in range(count)]
        work.mkdir(exist_ok=True)
        where = ",".join(where or (addresses(count) if count > 1 else ["1"]))
        tasks = list(zip(map(str, self.folders), map(str, range(count))))
        started = [tuple(map(",".join, zip(*tasks)))] if forked else tasks
        self.processes = [
            subprocess.Popen(
                [*prefix, sys.executable, TESTS / "cluster_worker.py", root, folder, where, task,
                 SGD, *overrides],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
            )
            for prefix, (folder, task) in zip(within, started)
        ]  # fmt: skip

    def weights(self):
        """Wait for the end; return the weights, which all workers must share."""
        for process in self.processes:
            _, err = process.communicate(timeout=400)
            assert process.returncode == 0, err
        found = []
        for folder in self.folders:
            with np.load(folder / "weights.npz") as saved:
                found.append([saved[name] for name in saved.files])
        for other in found[1:]:
            assert all(map(np.array_equal, found[0], other))
        return found[0]

    def history(self):
        return json.loads((self.folders[0] / "history.json").read_text())


def assert_close(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)


# --- addresses


def test_flags_name_the_cluster():
    cluster = parse_cluster("10.0.0.1:7000, host-2:7001", 1, {"TF_CONFIG": "ignored"})
    assert cluster == Cluster(("10.0.0.1:7000", "host-2:7001"), 1)
    assert not cluster.is_chief and len(cluster) == 2
    assert parse_cluster(None, None, {"TF_CONFIG": cluster.tf_config()}) == cluster
    assert parse_cluster(None, None, {}) is None
    assert parse_cluster("localhost:7000", 0, {}) is None  # one process


def test_tf_config_counts_the_chief_first():
    text = json.dumps({"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]},
                       "task": {"type": "worker", "index": 1}})  # fmt: skip
    assert parse_cluster(None, None, {"TF_CONFIG": text}) == Cluster(("a:1", "b:1", "c:1"), 2)


@pytest.mark.parametrize(
    "cluster, task, config, words",
    [
        ("a:1,b:2", None, "", "needs --task"),
        (None, 0, "", "--cluster, which is missing"),
        ("a:1,b", 0, "", "Received: 'b'"),
        ("a:1,b:99999", 0, "", "Received: 'b:99999'"),
        ("a:1,a:1", 0, "", "same address twice"),
        ("a:1,b:2", 2, "", "from 0 to 1"),
        ("slurm", None, "", "SLURM_PROCID is not set"),
        ("slurm", 0, "", "Leave --task out"),
        (None, None, "{", "TF_CONFIG is not"),
        (None, None, '{"cluster": {"worker": ["a:1", "b:1"], "ps": ["c:1"]}}', "ps"),
    ],
)
def test_addresses_are_checked(cluster, task, config, words):
    with pytest.raises(UserError, match=re.escape(words)):
        parse_cluster(cluster, task, {"TF_CONFIG": config})


STEP = {"SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "n[9-10],login",
        "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)", "SLURM_JOB_ID": "1234567"}  # fmt: skip


def test_slurm_names_the_cluster():
    cluster = parse_cluster("slurm", None, STEP | {"TF_CONFIG": "ignored"})
    hosts, ports = zip(*(address.split(":") for address in cluster.addresses))
    assert hosts == ("n9", "n9", "n10", "login") and cluster.task == 2
    assert len({int(port) for port in ports}) == 2 and int(ports[1]) == int(ports[0]) + 1
    assert parse_cluster("slurm", None, STEP | {
        "SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0"
    }) is None  # fmt: skip
    for change in ({"SLURM_STEP_NODELIST": "n[9-"}, {"SLURM_STEP_NODELIST": "n9"},
                   {"SLURM_STEP_TASKS_PER_NODE": "2,1(x"}, {"SLURM_PROCID": "x"}):  # fmt: skip
        with pytest.raises(UserError, match="not understood"):
            parse_cluster("slurm", None, STEP | change)
    with pytest.raises(UserError, match="--distribution=block"):
        parse_cluster("slurm", None, STEP | {"SLURM_DISTRIBUTION": "cyclic"})


def test_slurms_texts_mean_what_tensorflow_reads_in_them():
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as theirs

    for text in ("n1", "n[1-2],m5,o[3-4,6,7-9]", "node-[008-011,100]", "10.0.0.[1-3],h.example"):
        assert cluster_of.slurm_hosts(text) == theirs.expand_hostlist(text)
    for text in ("3", "3(x2),2,1", "1(x128)"):
        assert cluster_of.slurm_counts(text) == theirs.expand_tasks_per_node(text)


@pytest.mark.slow
def test_tasks_of_slurm_train_together(folder_dataset, tmp_path):
    settings = [part for text in SMALL for part in ("--set", text)]
    step = {"SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_TASKS_PER_NODE": "2",
            "SLURM_JOB_ID": str(os.getpid())}  # fmt: skip
    command = [sys.executable, "-m", "tfdetect.train", "--dataset", folder_dataset, "--output",
               tmp_path, "--name", "slurm", "--cluster", "slurm", *settings]  # fmt: skip
    tasks = [
        subprocess.Popen(command, env=os.environ | step | {"SLURM_PROCID": str(number)},
                         stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for number in range(2)
    ]  # fmt: skip
    errors = [task.communicate(timeout=400)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], errors
    assert "worker 1 of 2; 127.0.0.1:" in errors[1]
    assert open_run(tmp_path / "slurm").info.status == "complete"


# --- meeting


def meetings(clusters, seconds):
    """Hold a meeting in a thread for each cluster; return what each raised, or None."""
    found = [None] * len(clusters)

    def hold(number, cluster):
        try:
            meet(cluster, seconds)
        except UserError as error:
            found[number] = str(error)

    threads = [Thread(target=hold, args=each) for each in enumerate(clusters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_workers_meet():
    where = addresses(3)
    assert meetings([Cluster(where, task) for task in range(3)], 20) == [None] * 3


def test_a_worker_that_does_not_come_is_named():
    where = addresses(3)
    first, second = meetings([Cluster(where, task) for task in range(2)], 1)
    assert f"Worker 2 ({where[2]}) was not ready within 1 s" in first
    assert f"Worker 2 ({where[2]}) was not ready within 1 s" in second


def test_workers_of_other_clusters_are_refused():
    where = addresses(2)
    found = meetings([Cluster(where, 0), Cluster(where[::-1], 0)], 2)
    assert any("is not worker 1 of this cluster" in (text or "") for text in found)


def test_a_chief_that_ends_before_the_training_is_named():
    where = addresses(2)
    names = f"tfdetect worker 0 of {','.join(where)}\n".encode()

    def chief():
        with socket.create_server(("127.0.0.1", int(where[0].rpartition(":")[2]))) as server:
            while True:
                connection, _ = server.accept()
                with connection:
                    if connection.recv(99).startswith(b"ready"):
                        return
                    connection.sendall(names)

    thread = Thread(target=chief)
    thread.start()
    with pytest.raises(UserError, match="ended before the training began"):
        meet(Cluster(where, 1), 20)
    thread.join()


def test_an_address_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        where = (f"127.0.0.1:{other.getsockname()[1]}", *addresses(1))
        with pytest.raises(UserError, match="Worker 0 cannot listen at"):
            meet(Cluster(where, 0), 1)


class ThreadedWorkers(Workers):
    """Workers that are threads of this process, and add up over a list instead of a network."""

    def __init__(self, cluster, barrier, values):
        self.cluster, self._barrier, self._values = cluster, barrier, values

    def _sum(self, values):
        self._barrier.wait(20)
        self._values[self.cluster.task] = values
        self._barrier.wait(20)
        return sum(self._values)


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"dataset": "a", "seed": "1"}, None),
        ({"dataset": "b", "seed": "1"}, "dataset (b, not a)"),
        ({"dataset": "a", "order": "2"}, "order (2, not None), seed (None, not 1)"),
        ({"dataset": "a"}, "seed (None, not 1)"),
        ({"dataset": "a", "seed": "1", "order": "2"}, "order (2, not None)"),
    ],
)
def test_what_workers_start_from_is_compared(facts, words):
    barrier, values, found = Barrier(2), [None, None], [None, None]

    def check(task, own):
        workers = ThreadedWorkers(Cluster(("a:1", "b:1"), task), barrier, values)
        try:
            workers.check_same(own)
        except UserError as error:
            found[task] = str(error)

    chief = Thread(target=check, args=(0, {"dataset": "a", "seed": "1"}))
    chief.start()
    check(1, facts)
    chief.join()
    if words is None:
        assert found == [None, None]
    else:
        assert f"Worker 1 does not start from the same as the chief: {words}." in found[1]
        assert "Worker 1 does not start from the same as the others" in found[0]


def test_launch_starts_trainings_alone(capsys):
    for arguments, words in (
        (["--workers", "2", "--", "evaluate", "x"], "launch starts trainings"),
        (["--workers", "2", "--gpus", "0", "--", "train"], "names the GPUs of 1 workers"),
        (["--workers", "0", "--", "train"], "at least 1"),
    ):
        code, _, err = call("launch", arguments, capsys)
        assert code == 2 and words in err, err


@pytest.mark.slow
def test_launch_trains_and_ends_with_its_workers(folder_dataset, tmp_path):
    launch = [sys.executable, "-m", "tfdetect.launch", "--workers", "2", "--", "train"]
    settings = [part for text in SMALL for part in ("--set", text)]
    small = ["--dataset", folder_dataset, "--output", tmp_path, *settings]
    done = subprocess.run(
        [*launch, *small, "--name", "good", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "complete"
    assert "[worker 0] epoch 2/2" in done.stderr and (tmp_path / "good" / "run.json").is_file()
    done = subprocess.run(
        [*launch, *small, "--name", "bad", "--set", "training.batch_size=5"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "must be a multiple" in done.stderr
    assert not (tmp_path / "bad").exists()


# --- shares of the data


SETTINGS = {
    "warp": {"rotation": 20, "zoom": 0.1}, "color": {"brightness": 0.2}, "noise": {"max_sigma": 9},
    "erasing": {"probability": 0.7}, "shift": {"pixels": 3},
}  # fmt: skip
BY_IMAGE = [name for name, entry in AUGMENTATIONS.items() if entry.by_image]


@pytest.mark.parametrize("name", BY_IMAGE)
def test_a_part_of_a_batch_is_augmented_as_in_the_batch(name):
    policy = (Augmentation.model_validate({"name": name, **SETTINGS.get(name, {})}),)
    images = np.random.default_rng(0).integers(0, 256, (12, 24, 24, 3), np.uint8)

    def augmented(start, size):
        with drawing_for(Part(start, size, 12)):
            own = tf.constant(images[start : start + size])
            return augment(own, policy, (24, 24), 0, tf.constant(36, tf.int64))[0].numpy()

    whole = augmented(0, 12)
    assert (whole != images).any() or name == "gray"
    parts = np.concatenate([augmented(start, 4) for start in (0, 4, 8)])
    different = whole != parts
    assert different.mean() < 1e-3  # warps of other batch sizes are compiled anew
    assert np.abs(whole.astype(int) - parts).max(initial=0, where=different) <= 1


@pytest.mark.parametrize("augment", ["[{name: shift, pixels: 2}, {name: color}]",
                                     "[{name: flip}, {name: mixup}]"])  # fmt: skip
@pytest.mark.parametrize("cache", ["none", "memory"])
def test_parts_of_a_batch_make_up_the_batch(folder_dataset, augment, cache):
    overrides = [*SMALL, f"data.augment={augment}", f"data.cache={cache}"]
    plan = make_plan(str(folder_dataset), None, overrides)
    catalog = find_data(plan, progress=False)
    data = training_data(catalog, catalog.split("train"), plan.experiment.data, 2, 12, 0)

    def batches(part=None):
        return [(x.numpy(), y["label"].numpy()) for x, y in data.batches(3, part).take(2)]

    parts = [batches(Part(start, 4, 12)) for start in (0, 4, 8)]
    for whole, *own in zip(batches(), *parts):
        for each, pieces in zip(whole, zip(*own)):
            np.testing.assert_array_equal(each, np.concatenate(pieces))


def test_shares_of_validation_count_every_image_once(folder_dataset):
    plan = make_plan(str(folder_dataset), None, SMALL)
    catalog = find_data(plan, progress=False)
    table, data = catalog.split("validation"), plan.experiment.data
    (folder_dataset / table["path"][0].as_py()).write_bytes(b"gone since the scan")

    def shown(cluster=None):
        batches = list(validation_data(catalog, table, data, 2, 12, False, cluster))
        images = np.concatenate([images for images, *_ in batches])
        weights = np.concatenate([weights["label"] for *_, weights in batches])
        return len(batches), sorted(image.sum() for image in images[weights > 0])

    tasks = [shown(Cluster(("a:1", "b:1", "c:1"), task)) for task in range(3)]
    assert len({count for count, _ in tasks}) == 1  # or workers would wait for each other
    images = sorted(image for _, own in tasks for image in own)
    assert images == shown()[1] and len(images) == table.num_rows - 1


# --- training


def test_workers_and_replicas_train_the_weights_of_one(folder_dataset, tmp_path):
    """Replicas in this process, workers in processes of their own."""
    pair = Training(folder_dataset, tmp_path / "workers", 2, forked=True)
    detector, state = fit_small(folder_dataset, tmp_path / "one", [SGD])
    replicas, with_replicas = fit_small(
        folder_dataset, tmp_path / "replicas", [SGD], configure_devices(virtual=2)
    )
    several = (replicas.get_weights(), with_replicas.history), (pair.weights(), pair.history())
    for weights, history in several:
        assert_close(detector.get_weights(), weights)
        for alone, together in zip(state.history, history, strict=True):
            for key in ("loss", "val_log_loss", "val_accuracy", "val_auc"):
                assert abs(alone[key] - together[key]) < 1e-4, key


OTHER_SETTINGS = {
    "uneven, averaged": ["training.batch_size=8", "training.ema=0.9"],
    "mixed": ["data.augment=[{name: flip}, {name: mixup}]"],
    "staged": ["training.stages=[{epochs: 1, freeze: {fraction: 1}}, {epochs: 1}]"],
    "cached": ["model.freeze={fraction: 1}", "training.cache_features=1", "data.augment=[]"],
    "masks": LOCALIZER,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_several_workers_train_the_weights_of_one(name, folder_dataset, tmp_path):
    overrides = OTHER_SETTINGS[name]
    root = write_forged(tmp_path / "forged") if name == "masks" else folder_dataset
    detector, _ = fit_small(root, tmp_path / "one", [SGD, *overrides])
    for count in (2, 4) if name == "uneven, averaged" else (2,):
        workers = Training(root, tmp_path / str(count), count, *overrides)
        assert_close(detector.get_weights(), workers.weights())


def wait_for_step(process, number):
    for line in process.stdout:
        if line == f"step {number}\n":
            return
    raise AssertionError(process.stderr.read())


RESUMABLE = ["training.epochs=3", "training.checkpoint_minutes=0"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A dataset, and the weights that two workers train on it."""
    root = write_dataset(tmp_path_factory.mktemp("uninterrupted") / "pictures")
    return root, Training(root, root.with_name("whole"), 2, *RESUMABLE).weights()


@pytest.mark.slow
@pytest.mark.parametrize("task", [0, 1])
def test_a_killed_worker_ends_all_and_resume_goes_on(task, uninterrupted, tmp_path):
    root, whole = uninterrupted
    killed = Training(root, tmp_path / "killed", 2, *RESUMABLE)
    wait_for_step(killed.processes[1 - task], 10)
    killed.processes[task].kill()
    killed.processes[task].communicate()
    begin = time.monotonic()
    _, err = killed.processes[1 - task].communicate(timeout=120)
    assert killed.processes[1 - task].returncode == 2, err
    assert f"Worker {task} (127.0.0.1:" in err and "--resume" in err
    assert time.monotonic() - begin < 60
    copy = shutil.copytree(tmp_path / "killed", tmp_path / "other")
    again = Training(root, tmp_path / "killed", 2, *RESUMABLE)
    for one, other in zip(whole, again.weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Another number of workers goes on as well, in the same order.
    assert_close(whole, Training(root, copy, 1, *RESUMABLE).weights())


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="makes a network (root)")
def test_a_worker_that_is_cut_off_ends_all(folder_dataset, tmp_path):
    def ip(*words):
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", "tfdetect-test")
    try:
        ip("link", "add", "tfd0", "type", "veth", "peer", "name", "tfd1", "netns", "tfdetect-test")
        ip("addr", "add", "10.213.77.1/24", "dev", "tfd0")
        ip("link", "set", "tfd0", "up")
        inside = ["netns", "exec", "tfdetect-test", "ip"]
        ip(*inside, "addr", "add", "10.213.77.2/24", "dev", "tfd1")
        ip(*inside, "link", "set", "tfd1", "up")
        training = Training(
            folder_dataset, tmp_path, 2, "training.epochs=300",
            where=("10.213.77.1:7000", "10.213.77.2:7000"),
            within=([], ["ip", "netns", "exec", "tfdetect-test"]),
        )  # fmt: skip
        wait_for_step(training.processes[0], 20)
        ip("link", "set", "tfd0", "down")
        begin = time.monotonic()
        errors = [process.communicate(timeout=120)[1] for process in training.processes]
        assert time.monotonic() - begin < 60
        assert all("ended or cannot be reached" in err for err in errors), errors
    finally:
        subprocess.run(["ip", "netns", "del", "tfdetect-test"])


def test_a_model_is_built_without_reading_a_batch():
    """TensorFlow may end with a segmentation fault where a started iterator is given up."""
    import keras
    import tensorflow as tf

    from tfdetect.training.workers import prepare_model

    class Unread:
        def _get_iterator(self):
            return tf.data.Dataset.from_tensors((tf.zeros([4, 3]), tf.zeros([4, 1])))

        def __iter__(self):
            raise AssertionError("a batch was read")

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    prepare_model(model)
    model._maybe_symbolic_build(iterator=Unread())
    assert model.input_shape == (4, 3) and model._compile_metrics.built and model.optimizer.built


def test_a_keras_without_what_is_replaced_is_refused(monkeypatch):
    monkeypatch.setattr(workers, "_reduce_per_replica", None)
    with pytest.raises(UserError, match=r"Install keras 3\.15"):
        Workers(Cluster(addresses(2), 0))


@pytest.mark.slow
def test_keras_still_needs_the_two_overrides(folder_dataset, tmp_path):
    """When this fails, Keras has fixed issue 20585: `prepare_model` and the reduction can go."""
    code = (
        "import sys, tfdetect.training.workers as w, tfdetect.training.fit_job as j\n"
        "j.prepare_model = lambda model: None\n"
        "import cluster_worker\n"
        "sys.exit(cluster_worker.main(*sys.argv[1:]))"
    )
    where = ",".join(addresses(2))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder_dataset, tmp_path / str(task), where, str(task)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        )
        for task in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert any("PerReplica" in err for err in errors), errors
