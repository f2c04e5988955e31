"""Small datasets that the tests make, and a run they share."""

import ctypes
import functools
import gc
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the tests are for the CPU
# Test files run in parallel, one process for each core; more threads would wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# oneDNN's allocator keeps what large models used, which is gigabytes after many tests.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# Less work for Java's compiler and verifier of classes, which else take most of a short Spark job.
for _name in ("SPARK_LAUNCHER_OPTS", "SPARK_SUBMIT_OPTS"):
    os.environ.setdefault(
        _name,
        "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC "
        "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote",
    )

# A shell's background jobs ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import psutil
import pytest
from filelock import FileLock
from PIL import Image

from tfdetect.core.quiet import import_tensorflow


def pytest_configure(config):
    """Import TensorFlow where tests run; the process that hands out their files needs none."""
    if config.option.dist == "no" or config.option.collectonly:
        gc.disable()  # until all tests are imported
        prepare_tensorflow()


def prepare_tensorflow():
    import_tensorflow()
    import tensorflow as tf

    from tfdetect.core import html

    # Rewriting a graph takes a second and running it on a few images nothing. Commands that the
    # tests start as processes of their own rewrite theirs.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # Three logical CPU devices, so that replicas can be compared; one is used otherwise.
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
    _trace_faster()
    # Figures of reports in small: most of their time goes into pixels.
    html._DPI = 30


def _trace_faster():
    """Spare TensorFlow what each operation of a graph costs for the text of an error.

    It keeps where in the program each one was made, which takes the longer the deeper the calls
    are, and lists the types that it would allow. An operation that gets a wrong one says so still.
    """
    from keras.src.saving import saving_lib
    from tensorflow.python.framework import op_def_library, ops

    # Keras finds out again for each layer which attributes of its kind contain no weights.
    if hasattr(saving_lib, "get_attr_skipset"):
        saving_lib.get_attr_skipset = functools.cache(saving_lib.get_attr_skipset)
    ops._create_c_op = functools.partial(ops._create_c_op, extract_traceback=False)
    own = op_def_library._SatisfiesTypeConstraint

    def check_type(dtype, attr_def, param_name):
        allowed = attr_def.HasField("allowed_values") and attr_def.allowed_values.list.type
        if allowed and dtype not in allowed:
            own(dtype, attr_def, param_name)

    op_def_library._SatisfiesTypeConstraint = check_type


# Files of five seconds or more, the longest first: at the end no process waits for another one's.
LONG = [
    "test_models", "test_ensemble", "test_training", "test_synthesis", "test_use", "test_cluster",
    "test_shards", "test_masks", "test_search", "test_cli", "test_explanation", "test_walk",
    "test_warm_start", "test_pipeline", "test_imaging", "test_audit", "test_matrix", "test_plugins",
    "test_probe", "test_published", "test_calibration", "test_after_import", "test_api",
    "test_datasets", "test_spark", "test_keras_cv", "test_serving", "test_parallel", "test_domain",
    "test_evidence", "test_decode", "test_exports", "test_robustness", "test_pretrained",
    "test_mask_coding", "test_faces", "test_browser", "test_distributions", "test_docs",
    "test_web_export",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    order = {f"{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish(session):
    """What was imported stays: garbage is looked for in what the tests make alone, and rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 5)
    gc.enable()


@pytest.fixture(scope="session")
def _caches(tmp_path_factory):
    """Yields new folders; pytest's own `mktemp` looks through all that there are."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _clean(_caches, monkeypatch):
    """No test touches the user's caches, leaves a precision policy behind, or depends on chance.

    What a network is initialized with does not depend on the tests before.
    """
    import keras
    import tensorflow as tf

    random.seed(0)
    np.random.seed(0)
    # Where TensorFlow's seed is set, it forgets every function that it has prepared.
    if tf.compat.v1.get_seed(1)[0] != 0:
        keras.utils.set_random_seed(0)
    cache = next(_caches)
    cache.mkdir()
    monkeypatch.setenv("TFDETECT_CACHE", str(cache))
    monkeypatch.delenv("TFDETECT_DATA", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)  # output that is no terminal is as wide as it is
    yield
    keras.mixed_precision.set_global_policy("float32")
    if _grown() > 250 * 2**20:
        _collect_garbage()


_after_collection = 0


def _grown():
    """Return the bytes by which the process grew since garbage was collected."""
    return psutil.Process().memory_info().rss - _after_collection


def _collect_garbage():
    """Models and their functions are garbage in cycles, of hundreds of megabytes."""
    import tensorflow as tf

    global _after_collection
    tf.random.set_seed(0)  # forgets the prepared functions, and what they keep
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _after_collection = psutil.Process().memory_info().rss


@pytest.fixture(autouse=True, scope="module")
def _free_memory():
    """Models and traced functions of one file do not stay in memory during the next."""
    import keras

    yield
    if _grown() > 100 * 2**20:
        keras.backend.clear_session(free_memory=False)
        _collect_garbage()


def write_images(folder, count, fake, side=24, seed=0, extension="png"):
    """Smooth noise for real, the same with a checkerboard for fake: easy to tell apart."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, fake])
    checker = (np.indices((side, side)).sum(0) % 2 * 2 - 1)[..., None] * 12
    for number in range(count):
        coarse = Image.fromarray(rng.integers(40, 215, (4, 4, 3), np.uint8))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        pixels = pixels + fake * checker
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / f"{number:03d}.{extension}")


def write_dataset(root, side=24):
    """A bare folder with train/ and test/, classes real and fake; returns it."""
    for split, count in (("train", 60), ("test", 16)):
        for name, fake in (("real", 0), ("fake", 1)):
            write_images(root / split / name, count, fake, side, seed=len(split))
    return root


@pytest.fixture
def folder_dataset(tmp_path):
    return write_dataset(tmp_path / "pictures")


# A network that learns the checkerboards well; that of SMALL is traced in half the time.
OPTIONS = "{widths: [8, 16], blocks: [1, 1], strides: [1, 2], stem: 8}"
SMALL = [
    "data.image_size=24",
    "model.options={widths: [12], blocks: [1], strides: [2], stem: 8}",
    "training.batch_size=12", "training.epochs=2", "training.optimizer.learning_rate=0.01",
    "model.dropout=0", "data.augment=[{name: flip}]", "training.export=[]",
]  # fmt: skip


def train_small(root, output, overrides=(), name="small", **kwargs):
    """Trains the small network on a folder; returns the run.

    With `trial=True` it is quicker, as a trial of a search is: without test results and report.
    SavedModels, which cost as much, are asked for with training.export.
    """
    from tfdetect.data.plan import find_data, make_plan
    from tfdetect.train_run import train_run
    from tfdetect.training.devices import Devices
    from tfdetect.training.training_job import TrainingJob

    data_dir = kwargs.pop("data_dir", None)
    plan = make_plan(str(root), "small_images", [*SMALL, *overrides], data_dir)
    catalog = find_data(plan, progress=False)
    devices = kwargs.pop("devices", Devices(None, 1, 0, "CPU"))
    log = kwargs.pop("log", lambda text: None)
    job = TrainingJob(plan, catalog, devices, output / name, False, log)
    return train_run(job, **kwargs)


def fit_small(
    root, folder, overrides=(), devices=None, data_dir=None, callbacks=(), plan=None, parent=None,
    log=lambda text: None,
):  # fmt: skip
    """Fits without the rest of the run; returns the detector and its state."""
    from tfdetect.data.plan import find_data, make_plan
    from tfdetect.data.warm_start import Start
    from tfdetect.train_run import fit_only
    from tfdetect.training.devices import configure_devices
    from tfdetect.training.training_job import TrainingJob

    plan = plan or make_plan(str(root), "small_images", [*SMALL, *overrides], data_dir)
    catalog = find_data(plan, progress=False)
    devices = devices or configure_devices(virtual=1)
    folder.mkdir(exist_ok=True)
    start = Start(parent, catalog) if parent else None
    job = TrainingJob(plan, catalog, devices, folder, False, log, start)
    result = fit_only(job, folder, callbacks)
    return result.detector, result.state


def run_at(path, class_names=("real", "fake"), side=24, policy="stretch", masks=False):
    """A run with the least that its run.json may say, for a model that a test builds."""
    from tfdetect.core.run import Run
    from tfdetect.core.run_info import DatasetInfo, RunInfo, View

    view = View(size=(side, side), policy=policy)
    return Run(path, RunInfo(
        status="complete", class_names=tuple(class_names), views=(view,), predicts_masks=masks,
        seed=0, devices="CPU",
        command="-", created="2026-01-01", versions={}, git_revision=None,
        dataset=DatasetInfo(name="none", fingerprint="0"),
    ))  # fmt: skip


def built_once(tmp_path_factory, name, build):
    """Returns a folder that the first of the parallel processes builds, for all to read.

    Args:
        tmp_path_factory: pytest's.
        name: of the folder.
        build: called with the folder's path, which exists and is empty.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "built").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            (folder / "built").touch()
    return folder


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory):
    """One finished run and its dataset, for all tests that only read them."""
    from tfdetect.core.open_run import open_run

    def build(folder):
        os.environ["TFDETECT_CACHE"] = str(folder / "cache")
        root = write_dataset(folder / "pictures")
        overrides = [f"model.options={OPTIONS}", "training.export=[saved_model]"]
        train_small(root, folder / "runs", overrides)

    folder = built_once(tmp_path_factory, "shared", build)
    return open_run(folder / "runs" / "small"), folder / "pictures"


@pytest.fixture
def zeros_everywhere(monkeypatch):
    """Variables begin with zeros, and those of one shape share them.

    Random ones take most of the time, and gigabytes.
    """
    import keras
    import tensorflow as tf

    @functools.cache
    def zeros(shape, dtype):
        with tf.init_scope():  # some layers are built while a graph is
            return keras.ops.zeros(shape, dtype)

    for name in ("VarianceScaling", "RandomNormal", "TruncatedNormal", "RandomUniform"):
        kind = getattr(keras.initializers, name)
        monkeypatch.setattr(
            kind, "__call__", lambda self, shape, dtype=None: zeros(tuple(shape), dtype)
        )


@pytest.fixture
def registries(monkeypatch):
    """Plug-ins register nothing beyond a test."""
    from tfdetect.core import plugins, registry

    for known in (
        registry.FRONT_ENDS, registry.BACKBONES, registry.HEADS, registry.MASK_HEADS,
        registry.LOSSES, registry.AUGMENTATIONS,
    ):  # fmt: skip
        monkeypatch.setattr(known, "_entries", dict(known._entries))
        monkeypatch.setattr(known, "_offered", None)
    before = set(sys.modules)
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("tfdetect_plugin_", "outside_")):
            del sys.modules[name]
    os.environ.pop(plugins.VARIABLE, None)


@pytest.fixture(scope="session")
def mediapipe_model(tmp_path_factory):
    """Returns a function from names of MediaPipe's files to their paths, if they can be had."""
    folder = tmp_path_factory.mktemp("mediapipe")
    done = subprocess.run([
        sys.executable, "-m", "pip", "download", "-q", "mediapipe==0.10.21", "--no-deps",
        "--only-binary", ":all:", "--python-version", "3.12", "--dest", str(folder),
    ], capture_output=True, check=False)  # fmt: skip
    if done.returncode:
        pytest.skip("the wheel of mediapipe 0.10.21 cannot be downloaded here")
    [wheel] = folder.glob("*.whl")

    def extract(name):
        with zipfile.ZipFile(wheel) as files:
            [member] = [n for n in files.namelist() if n.endswith(f"/{name}")]
            return files.extract(member, folder)

    return extract


def write_litert(path, function, side):
    """Write a function of an image [1, side, side, 3] as a LiteRT model; return its path."""
    import tensorflow as tf

    signature = [tf.TensorSpec([1, side, side, 3])]
    traced = tf.function(function, input_signature=signature, autograph=False)
    concrete = traced.get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return str(path)
