"""Dataset specs: the shipped ones, bare folders, and mistakes."""

import pytest
import yaml

from tfdetect.core.documents import shipped
from tfdetect.core.errors import UserError
from tfdetect.core.spec import load_spec


@pytest.mark.parametrize("name", [p.stem for p in shipped("data_specs").glob("*.yaml")])
def test_shipped_specs_are_valid(name):
    spec, folder = load_spec(name)
    assert spec.name == name and folder == {}
    assert len(spec.class_names) >= 2


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'cifake'"):
        load_spec("cifakee")


def test_typo_names_key_file_line_and_nearest(tmp_path):
    data = yaml.safe_load((shipped("data_specs") / "cifake.yaml").read_text())
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
    data = yaml.safe_load((shipped("data_specs") / "cifake.yaml").read_text()) | change
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=message):
        load_spec(str(file))


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
    for name in ("AI", authentic, "zz"):
        (tmp_path / name).mkdir()
    assert load_spec(str(tmp_path))[0].class_names == (authentic, "AI", "zz")


def test_authentic_class_is_asked_for(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="--authentic NAME"):
        load_spec(str(tmp_path))
    assert load_spec(str(tmp_path), "dogs")[0].class_names == ("dogs", "cats")
    with pytest.raises(UserError, match="Did you mean 'dogs'"):
        load_spec(str(tmp_path), "dog")


def test_several_authentic_names_are_asked_for(tmp_path):
    for name in ("real", "original", "fake"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="Several classes look authentic"):
        load_spec(str(tmp_path))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ((), "no class folders"),
        (("real",), "one class only"),
        (("test/real", "test/fake"), "train"),
    ],
)
def test_unusable_folders_are_explained(tmp_path, folders, message):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        load_spec(str(tmp_path))


def test_missing_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        load_spec(str(tmp_path / "nowhere"))
