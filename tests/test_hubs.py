"""Image sets of TensorFlow Datasets and Hugging Face, prepared here, without a network."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SMALL, train_small, write_images

from tfdetect.core.errors import UserError
from tfdetect.data.plan import find_data, make_plan


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of two splits; returns their bytes by split and class."""
    root = tmp_path_factory.mktemp("source")
    for split, count in (("train", 60), ("test", 16)):
        for name, fake in (("real", 0), ("fake", 1)):
            write_images(root / split / name, count, fake, seed=len(split))
    return root


def prepare_tfds(source, target):
    import tensorflow_datasets as tfds

    class Pictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["fake", "real"]),
            }))  # fmt: skip

        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split):
            for path in sorted((source / split).rglob("*.png")):
                yield f"{path.parent.name}-{path.name}", {"image": path, "label": path.parent.name}

    Pictures.pkg_dir_path = source
    builder = Pictures(data_dir=str(target))
    builder.download_and_prepare()
    return builder.data_dir


def prepare_hugging_face(source, target):
    import datasets

    def rows(split):
        paths = sorted((source / split).rglob("*.png"))
        return {"picture": [str(p) for p in paths],
                "label": [int(p.parent.name == "real") for p in paths]}  # fmt: skip

    features = datasets.Features({
        "picture": datasets.Image(), "label": datasets.ClassLabel(names=["fake", "real"]),
    })  # fmt: skip
    splits = {s: datasets.Dataset.from_dict(rows(s), features) for s in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(target))
    return target


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning",
                            "ignore::ResourceWarning")  # of those libraries  # fmt: skip
@pytest.mark.parametrize(
    ("prefix", "prepare"),
    [
        ("tfds", prepare_tfds),
        pytest.param("hf", prepare_hugging_face, marks=pytest.mark.slow),
    ],
)
def test_prepared_sets_train_and_keep_their_bytes(prefix, prepare, pictures, tmp_path):
    name = f"{prefix}:{prepare(pictures, tmp_path / 'prepared')}"
    plan = make_plan(name, None, SMALL)
    catalog = find_data(plan, progress=False)
    assert plan.spec.class_names == ("real", "fake") and plan.experiment.data.dataset == name
    counts = catalog.counts(("real", "fake"))
    assert counts["test"] == {"real": 16, "fake": 16}
    stored = {
        (r["label"], Path(p).read_bytes())
        for r, p in zip(catalog.table.to_pylist(), catalog.paths(catalog.table).to_pylist())
    }
    given = {(int(p.parent.name == "fake"), p.read_bytes()) for p in pictures.rglob("*.png")}
    assert stored == given
    run = train_small(name, tmp_path / "runs", trial=True)
    assert np.isfinite(pq.read_table(run.path / "predictions/validation.parquet")["p_fake"]).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning",
                            "ignore::ResourceWarning")  # fmt: skip
@pytest.mark.parametrize("name", ["tfds:no_such_set_at_all", "hf:nobody/no_such_set"])
def test_what_cannot_be_had_says_the_way_out(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="could not be unpacked.*\n.*give its folder"):
        make_plan(name)
