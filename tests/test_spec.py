"""Dataset specs: the shipped ones, bare folders, and mistakes."""

from pathlib import Path

import pytest
import yaml
from conftest import write_images

from tfdetect.core.class_order import RunClasses
from tfdetect.core.errors import UserError
from tfdetect.core.folder_spec import folder_name
from tfdetect.core.load_spec import load_spec
from tfdetect.core.shipped_documents import package_folder
from tfdetect.core.spec import ClassSpec, DatasetSpec
from tfdetect.data.build_catalog import build_catalog
from tfdetect.data.locate import locate_dataset
from tfdetect.data.plan import data_flags, make_plan


@pytest.mark.parametrize("name", [p.stem for p in package_folder("data_specs").glob("*.yaml")])
def test_shipped_specs_are_valid(name):
    spec, folder = load_spec(name)
    assert spec.name == name and folder == {}
    assert len(spec.class_names) >= 2


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'cifake'"):
        load_spec("cifakee")


def test_old_keys_are_named_with_todays(tmp_path):
    data = yaml.safe_load((package_folder("data_specs") / "cifake.yaml").read_text())
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump({**data, "link": "_", "validation_share": 0.1}))
    with pytest.raises(UserError) as error:
        load_spec(str(file))
    assert "key 'link' is called group_separator since version 0.2." in str(error.value)
    assert "key 'validation_share' is called validation_fraction since" in str(error.value)


def test_typo_names_key_file_line_and_nearest(tmp_path):
    data = yaml.safe_load((package_folder("data_specs") / "cifake.yaml").read_text())
    data["validation_shar"] = data.pop("validation_fraction")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError) as error:
        load_spec(str(file))
    line = 1 + [t.startswith("validation_shar") for t in file.read_text().splitlines()].index(True)
    assert "'validation_shar' is not known" in str(error.value)
    assert "Did you mean 'validation_fraction'" in str(error.value)
    assert f"{file}, line {line}" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "(?P<class>a"}, "not a regular expression"),
        ({"pattern": "a/b"}, r"needs a group"),
        ({"splits": {"train": "training"}}, "is not a split"),
        ({"classes": [{"name": "a", "folders": ["x"]}]}, "at least 2"),
        ({"validation_fraction": 0.9}, "less than 0.5"),
        ({"classes": [{"name": "a", "folder": ["x"]}, {"name": "b", "folders": ["y"]}]},
         "Did you mean 'folders'"),
    ],
)  # fmt: skip
def test_illegal_values_are_explained(tmp_path, change, message):
    data = yaml.safe_load((package_folder("data_specs") / "cifake.yaml").read_text()) | change
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=message):
        load_spec(str(file))


def test_a_missing_key_is_one_mistake(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "a", "manifest": "m.csv", "classes": [
        {"name": "real"}, {"name": "fake", "folders": ["fake"]}]}))  # fmt: skip
    with pytest.raises(UserError, match=r"'classes\.0\.folders' is required\.$"):
        load_spec(str(file))


def test_letters_of_a_folder_stay_readable():
    assert folder_name(Path("Ünï cödé")) == "uni_code"


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", ""])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=str(file)):
        load_spec(str(file))


def test_folder_with_splits(folder_dataset):
    spec, folder = load_spec(str(folder_dataset))
    assert folder == {"pictures": folder_dataset}
    assert spec.class_names == ("real", "fake")
    assert spec.splits == {"train": "train", "test": "test"}


@pytest.mark.parametrize("authentic", ["REAL", "0_real", "nature", "Original"])
def test_authentic_class_is_found_whatever_the_alphabet(tmp_path, authentic):
    images_in(tmp_path, "AI", authentic, "zz")
    assert load_spec(str(tmp_path))[0].class_names == (authentic, "AI", "zz")


def test_authentic_class_is_asked_for(tmp_path):
    images_in(tmp_path, "cats", "dogs")
    with pytest.raises(UserError, match="--authentic NAME"):
        load_spec(str(tmp_path))
    assert load_spec(str(tmp_path), "dogs")[0].class_names == ("dogs", "cats")
    with pytest.raises(UserError, match="Did you mean 'dogs'"):
        load_spec(str(tmp_path), "dog")


def test_the_part_of_a_union_that_needs_it_gets_the_authentic_class(tmp_path):
    images_in(tmp_path / "basic", "real", "fake")
    images_in(tmp_path / "odd", "katzen", "hunde")
    images_in(tmp_path / "other", "birds", "fish")
    images_in(tmp_path / "more", "real", "katzen")
    parts = [str(tmp_path / name) for name in ("basic", "odd", "other")]
    with pytest.raises(UserError, match="--authentic NAME"):
        load_spec("+".join(parts[:2]))
    spec, _ = load_spec("+".join(parts[:2]), "katzen")
    assert [part.class_names[0] for part in spec.datasets] == ["real", "katzen"]
    assert data_flags(spec, None)["authentic"] == "katzen"
    spec, _ = load_spec("+".join(parts), "fish,katzen")
    assert [part.class_names[0] for part in spec.datasets] == ["real", "katzen", "fish"]
    with pytest.raises(UserError, match="Unknown class for --authentic 'katze'. Did you mean"):
        load_spec("+".join([parts[0], str(tmp_path / "more")]), "katze")
    file = tmp_path / "both.yaml"
    file.write_text(
        f"name: both\nparts:\n  - {parts[0]}\n  - {{dataset: {parts[1]}, classes: {{katzen: real, "
        "hunde: fake}}\nclasses: [{name: real, folders: []}, {name: fake, folders: []}]\n"
    )
    spec, _ = load_spec(str(file), "katzen")
    assert [part.class_names[0] for part in spec.datasets] == ["real", "katzen"]


def test_several_authentic_names_are_asked_for(tmp_path):
    images_in(tmp_path, "real", "original", "fake")
    with pytest.raises(UserError, match="Several classes look authentic"):
        load_spec(str(tmp_path))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ((), "no class folders"),
        (("real",), "only one class"),
        (("test/real", "test/fake"), "train"),
    ],
)
def test_unusable_folders_are_explained(tmp_path, folders, message):
    images_in(tmp_path, *folders)
    with pytest.raises(UserError, match=message):
        load_spec(str(tmp_path))


def test_missing_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        load_spec(str(tmp_path / "nowhere"))


def test_a_folder_named_like_a_shipped_dataset(tmp_path, monkeypatch, capsys):
    """It wins where no --data-dir is given; never in documents, and never as a part of them."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "cifake" / "real", 1, 0)
    write_images(tmp_path / "cifake" / "fake", 1, 0)
    (tmp_path / "union.yaml").write_text(
        "name: union\nparts: [{dataset: demo, classes: {authentic: real, altered: fake}}, "
        "{dataset: cifake, classes: {REAL: real, FAKE: fake}}]\n"
        "classes: [{name: real, folders: []}, {name: fake, folders: []}]\n"
    )
    (tmp_path / "mine.yaml").write_text("name: mine\ndata: {dataset: cifake}\n")

    def roots(*arguments, **more):
        plan = make_plan(*arguments, **more)
        return plan.folders, plan.experiment.data.dataset

    own = tmp_path / "cifake"
    assert roots("cifake", "demo") == ({"cifake": own}, str(own))
    assert "also the name of a shipped dataset" in capsys.readouterr().err
    assert roots("./cifake", "demo") == ({"cifake": own}, str(own))
    assert roots("cifake", "demo", data_dir=tmp_path) == ({}, "cifake")
    assert roots("./cifake", "demo", data_dir=tmp_path) == ({"cifake": own}, str(own))
    assert roots(experiment="mine.yaml") == ({}, "cifake")
    assert roots("union.yaml", "demo")[0] == {}
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="does not contain the dataset"):
        locate_dataset("cifake", tmp_path / "nothing")
    with pytest.raises(UserError, match="--label is for a folder"):
        load_spec("cifake", None, RunClasses(("real", "fake"), "fake"), by_name=True)


def images_in(root, *folders):
    for folder in folders:
        write_images(root / folder, 6, "fake" in folder)
    return root


def evaluation_catalog(root, *, authentic=None, label=None, class_names=("real", "fake")):
    spec, folders = load_spec(str(root), authentic, RunClasses(class_names, label))
    return spec, build_catalog(spec, folders, progress=False)


@pytest.mark.parametrize(
    ("folder", "authentic", "class_names", "expected"),
    [
        ("real", None, ("real", "fake"), 0),
        ("nature", None, ("authentic", "altered"), 0),
        ("fake", None, ("real", "fake"), 1),
        ("generated", None, ("nature", "ai"), 1),
        ("altered", None, ("authentic", "altered"), 1),
        ("holiday", "holiday", ("real", "fake"), 0),
        ("edited", None, ("real", "generated", "edited"), 2),
    ],
)
def test_one_class_is_enough_to_evaluate(tmp_path, folder, authentic, class_names, expected):
    images_in(tmp_path, folder)
    with pytest.raises(UserError, match="has only one class"):
        load_spec(str(tmp_path), authentic)
    spec, found = evaluation_catalog(tmp_path, authentic=authentic, class_names=class_names)
    assert spec.class_names == class_names
    assert set(found.table["label"].to_pylist()) == {expected}
    assert found.split("test").num_rows == found.table.num_rows > 0


def test_a_test_split_alone_is_enough_to_evaluate(tmp_path):
    images_in(tmp_path, "test/real", "test/fake")
    with pytest.raises(UserError, match="no train folder"):
        load_spec(str(tmp_path))
    spec, found = evaluation_catalog(tmp_path)
    assert found.counts(spec.class_names) == {"test": {"real": 6, "fake": 6}}


def test_folders_that_train_are_split_alike_for_evaluation(tmp_path):
    write_images(tmp_path / "real", 40, 0)
    write_images(tmp_path / "fake", 40, 1)
    spec, folders = load_spec(str(tmp_path))
    training = build_catalog(spec, folders, progress=False)
    assert evaluation_catalog(tmp_path)[1].table.equals(training.table)


def test_an_unlabeled_folder_is_refused_and_predict_is_named(tmp_path):
    images_in(tmp_path, ".")
    with pytest.raises(UserError, match=r"tfdetect.predict RUN .*--label authentic"):
        evaluation_catalog(tmp_path)


@pytest.mark.parametrize(("label", "expected"), [("authentic", 0), ("fake", 1), ("real", 0)])
def test_a_label_states_the_class_of_all_images(tmp_path, label, expected):
    images_in(tmp_path, ".", "holiday/2024")
    spec, found = evaluation_catalog(tmp_path, label=label)
    assert found.table["label"].to_pylist() == [expected] * 12
    assert found.split("test").num_rows == 12


@pytest.mark.parametrize(
    ("label", "class_names", "message"),
    [
        ("faek", ("real", "fake"), "class for --label 'faek'. Available: authentic, fake, real"),
        ("fake", ("real", "generated", "edited"), "--label generated or --label edited"),
    ],
)
def test_labels_that_are_not_clear_are_explained(tmp_path, label, class_names, message):
    images_in(tmp_path, ".")
    with pytest.raises(UserError, match=message):
        evaluation_catalog(tmp_path, label=label, class_names=class_names)


def test_a_label_needs_a_folder_without_labels(tmp_path):
    images_in(tmp_path, ".")
    with pytest.raises(UserError, match="either --label.*or --authentic"):
        evaluation_catalog(tmp_path, label="fake", authentic="real")
    (tmp_path / "manifest.csv").write_text("path,label\n000.png,real\n")
    with pytest.raises(UserError, match="has labels in manifest.csv"):
        evaluation_catalog(tmp_path, label="fake")
    with pytest.raises(UserError, match="not a folder"):
        evaluation_catalog("cifake", label="fake")


def test_one_class_with_an_unknown_name_needs_a_label(tmp_path):
    images_in(tmp_path, "holiday")
    with pytest.raises(UserError, match="'holiday'.*--label authentic or --label fake"):
        evaluation_catalog(tmp_path)


def test_a_manifest_with_one_label_is_enough_to_evaluate(tmp_path):
    images_in(tmp_path, "any")
    (tmp_path / "manifest.csv").write_text("path,label\nany/000.png,fake\nany/001.png,fake\n")
    with pytest.raises(UserError, match="has only one class"):
        load_spec(str(tmp_path))
    _, found = evaluation_catalog(tmp_path)
    assert found.split("test")["label"].to_pylist() == [1, 1]


def test_a_union_of_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classes = "classes: [{name: real, folders: [real]}, {name: fake, folders: [fake]}]\n"
    for name, part in (("a", "a"), ("b", "c"), ("c", "b")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nparts: [{part}.yaml]\n{classes}")
    with pytest.raises(UserError, match="a part is itself"):
        load_spec("a.yaml")
    with pytest.raises(UserError, match=r"a part is c\.yaml, which has parts of its own"):
        load_spec("b.yaml")
    (tmp_path / "c.yaml").unlink()
    with pytest.raises(UserError, match=r"b\.yaml, part 1: There is no dataset file 'c\.yaml'"):
        load_spec("b.yaml")


@pytest.mark.parametrize("value", ["!!float abc", "!!int abc", "0x_", "2001-99-99", "!!bool x"])
def test_a_value_that_is_no_number_is_named_with_its_line(value, tmp_path):
    (tmp_path / "a.yaml").write_text(f"name: a\ntest_fraction: {value}\n")
    with pytest.raises(UserError, match=r"a\.yaml, line 2: this is not YAML"):
        load_spec(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "", "x" * 201, "a\u202eb"])
def test_names_are_no_paths(name):
    classes = ClassSpec(name="real", folders=("r",)), ClassSpec(name="fake", folders=("f",))
    with pytest.raises(ValueError, match="a name"):
        DatasetSpec(name=name, manifest="m.csv", classes=classes)
    with pytest.raises(ValueError, match="a name"):
        ClassSpec(name=name, folders=("a",))


def test_parts_of_a_union_are_found_in_the_current_folder_or_beside_its_file(tmp_path, monkeypatch):
    for folder, real in (("specs/sets/one", "real"), ("specs/sets/two", "real")):
        for name in (real, "fake"):
            write_images(tmp_path / folder / name, 2, 0)
    file = tmp_path / "specs" / "both.yaml"
    file.write_text(
        "name: both\nparts: [sets/one, {dataset: sets/two}]\n"
        "classes: [{name: real, folders: []}, {name: fake, folders: []}]\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    spec, folders = load_spec("../specs/both.yaml")
    assert [part.spec.name for part in spec.parts] == ["one", "two"]
    beside = {(tmp_path / "specs/sets" / name).resolve() for name in ("one", "two")}
    assert {folder.resolve() for folder in folders.values()} == beside
    write_images(elsewhere / "sets/one/real", 1, 0)  # what is here comes first, as it did before
    write_images(elsewhere / "sets/one/fake", 1, 0)
    _, folders = load_spec(str(file))
    found = {folder.resolve() for folder in folders.values()}
    assert found == {elsewhere / "sets/one", tmp_path / "specs/sets/two"}
    file.write_text(file.read_text().replace("sets/two", "sets/three"))
    with pytest.raises(UserError, match=r"part 2: .*three.* Looked in the current folder") as error:
        load_spec(str(file))
    assert all(str(folder) in str(error.value) for folder in (elsewhere, file.parent))
