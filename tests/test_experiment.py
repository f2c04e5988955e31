"""Experiments: the shipped ones, overrides, and mistakes."""

import pytest

from tfdetect.core.documents import validate
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.load_spec import load_spec
from tfdetect.core.run_info import RunInfo
from tfdetect.core.shipped_documents import package_folder, shipped_names

FILES = shipped_names("experiments")
NAMES = sorted(FILES)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_experiments_are_valid_and_explain_themselves(name):
    experiment = load_experiment(name)
    assert experiment.name == name
    header = FILES[name].read_text()
    for word in ("# Command:", "# Time:", "# Expected:", "# Source:"):
        assert word in header


def test_every_spec_names_a_shipped_experiment():
    for path in package_folder("data_specs").glob("*.yaml"):
        assert load_spec(path.stem)[0].experiment in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_yaml_round_trip(name, tmp_path):
    experiment = load_experiment(name)
    file = tmp_path / "again.yaml"
    file.write_text(experiment.to_yaml())
    assert load_experiment(str(file)) == experiment


def test_overrides():
    changed = load_experiment("demo", [
        "training.epochs=3", "training.optimizer.learning_rate=1e-4", "model.weights=none",
        "data.image_size=[48, 32]", "model.options.stem=4", "model.freeze.fraction=0.5",
        "data.augment=[flip, {name: jpeg, probability: 0.1}]",
    ])  # fmt: skip
    assert changed.training.epochs == 3
    assert changed.training.optimizer.learning_rate == 1e-4
    assert changed.data.image_size == (48, 32)
    assert changed.model.options["stem"] == 4
    assert changed.data.augment[1].params == {"probability": 0.1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "Did you mean 'training.epochs'"),
        ("trainin.epochs=3", "Did you mean 'training.epochs'"),
        ("training.epochs", "KEY=VALUE"),
        ("training.epochs=many", "a whole number is expected. Received: 'many'"),
        ("training.export=onnx", r"a list is expected, such as \[a, b\]. Received: 'onnx'"),
        (
            "data.equalize=true",
            r"keys and values .* {key: value}, of these: side",
        ),
        ("training.epochs=0", "greater than 0"),
        ("model.backbone=densenet", "Did you mean|nearest|densenet121"),
        ("model.head=liner", "Did you mean 'linear'"),
        ("data.augment=[wrap]", "Did you mean 'warp'"),
        ("model.freeze={first: 3, fraction: 0.5}", "use one of"),
        ("training.epochs=[", "is not YAML"),
    ],
)
def test_mistaken_overrides_are_explained(override, message):
    with pytest.raises(UserError, match=message):
        load_experiment("demo", [override])


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    [
        ("swin_t", 225, "224 and 448"),
        ("swin_t", 100, "nearest legal size is 224"),
        ("xception", 64, "nearest legal size is 71"),
        ("densenet121", 16, "nearest legal size is 32"),
    ],
)
def test_illegal_input_sizes_name_the_nearest(backbone, size, message):
    with pytest.raises(UserError, match=message):
        load_experiment("demo", [f"model.backbone={backbone}", f"data.image_size={size}"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{window_size: 2}", "nearest legal sizes are 64 and 128"),
        ("{patch_size: 8, depths: [1, 1]}", "nearest legal size is 112"),
        ("{window_size: 2, depths: [1]}", None),
        ("{window_size: wide}", None),  # what the network takes is checked when it is built
    ],
)
def test_sizes_that_depend_on_options(options, message):
    overrides = ["model.backbone=swin_t", "data.image_size=104", f"model.options={options}"]
    if message is None:
        assert load_experiment("demo", overrides).data.image_size == (104, 104)
        return
    with pytest.raises(UserError, match=message):
        load_experiment("demo", overrides)


def test_another_backbone_drops_the_options_of_the_first():
    assert load_experiment("demo").model.options
    assert load_experiment("demo", ["model.backbone=densenet121"]).model.options == {}


def test_misspelled_key_names_file_and_line(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ntraining:\n  epochs: 2\n  batchsize: 4\n")
    with pytest.raises(UserError) as error:
        load_experiment(str(file))
    assert f"{file}, line 4" in str(error.value)
    assert "'training.batchsize' is not known. Did you mean 'batch_size'" in str(error.value)


@pytest.mark.parametrize(("given", "meant"), [
    ("training.seed=3", "seed"), ("learning_rate=0.1", "training.optimizer.learning_rate"),
    ("training.epoch=3", "training.epochs"),
])  # fmt: skip
def test_a_key_in_another_section_is_found(given, meant):
    with pytest.raises(UserError, match=f"Did you mean '{meant}'"):
        load_experiment("demo", [given])


@pytest.mark.parametrize(("text", "words"), [
    ("dataset: cifake", "key 'dataset' is not known. Did you mean 'data.dataset'?"),
    ("epochs: 3", "Did you mean 'training.epochs'?"),  # training.stages has epochs, too
    ("data: {resize: strech}", "or 'window_pad' is expected (did you mean 'stretch'?). Received"),
    ("training: {epochs: 0}", "should be greater than 0. Received: 0"),
    ("training: {batch_size: 100000}", "should be less than or equal to 65536"),
    ("data: {keep_hashes: maybe}", "true or false is expected. Received: 'maybe'"),
    ("training: {ema: much}", "a number is expected. Received: 'much'"),
])  # fmt: skip
def test_mistakes_are_told_in_the_words_of_the_document(tmp_path, text, words):
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\n{text}\n")
    with pytest.raises(UserError) as error:
        load_experiment(str(file))
    assert words in str(error.value)
    assert "Input should" not in str(error.value)


def test_a_key_is_looked_for_in_documents_that_contain_themselves():
    # An adaptation of a run may hold an earlier one.
    with pytest.raises(UserError, match="'nowhere' is not known"):
        validate(RunInfo, {"nowhere": 1}, "run.json")


def test_a_file_named_without_its_suffix_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match=r"named with its suffix: mine\.yaml"):
        load_experiment("mine")
    with pytest.raises(UserError) as error:
        load_experiment("nowhere")
    assert "suffix" not in str(error.value)
