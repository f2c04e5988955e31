"""Options of registered functions are checked by their signatures, before they are used."""

import inspect

import keras
import pytest

from tfdetect.api.training_functions import prepare_training
from tfdetect.core import registry
from tfdetect.core.data_settings import Augmentation
from tfdetect.core.errors import UserError
from tfdetect.core.load_experiment import load_experiment, override
from tfdetect.core.register import register_backbone
from tfdetect.core.shipped_documents import shipped_names
from tfdetect.data.augmentation import check_policy
from tfdetect.models.backbones import build_backbone
from tfdetect.models.detector import build_detector, check_model
from tfdetect.training import trackers
from tfdetect.training.check_training import build_checked

SIZE = (32, 32)


def step(name: str, **params) -> tuple[Augmentation]:
    return (Augmentation(name=name, params=params),)


def small(*settings: str):
    return override(load_experiment("demo"), ["data.image_size=32", *settings])


@pytest.mark.parametrize(("policy", "message"), [
    (step("flip", probability=2), "flip.probability: .*less than or equal to 1. Received: 2"),
    (step("flip", vertical_probability=-1), "flip.vertical_probability"),
    (step("flip", probability=True), "flip.probability: takes a number"),
    (step("flip", probability=float("nan")), "flip.probability"),
    (step("shift", pixels=33), "shift.pixels: at most the image's side, 32"),
    (step("warp", zoom=5), "warp.zoom: .*less than 1"),
    (step("warp", rotation=float("inf")), "warp.rotation"),
    (step("crop", max_aspect_ratio=0), "crop.max_aspect_ratio"),
    (step("crop", min_area=0), "crop.min_area"),
    (step("jpeg", min_quality=90, max_quality=20), "min_quality is at most max_quality"),
    (step("jpeg", max_quality=20), "jpeg: min_quality is at most max_quality. Received: 30 and 20"),
    (step("webp", max_quality=101), "webp.max_quality"),
    (step("jpeg", min_quality=0), "jpeg.min_quality"),
    (step("noise", max_sigma=-1), "noise.max_sigma"),
    (step("blur", max_sigma=100), "blur.max_sigma"),
    (step("downsample", min_scale=0), "downsample.min_scale"),
    (step("color", hue=2), "color.hue"),
    (step("rand_augment", magnitude=1000), "rand_augment.magnitude"),
    (step("rand_augment", operations=0), "rand_augment.operations"),
    (step("erasing", min_area=0.5, max_area=0.1), "min_area is at most max_area"),
    (step("patches", patch_size=0), "patches.patch_size"),
    (step("mixup", alpha=-1), "mixup.alpha: .*greater than 0"),
    (step("cutmix", alpha=0), "cutmix.alpha"),
    (step("forgery", min_area=2), "forgery.min_area"),
    (step("forgery", label=2), "forgery.label: a fake class, from 1 to 1"),
    (step("amplitude_mix", blend=2), "amplitude_mix.blend"),
    (step("bands", bandwidth=0), "bands.bandwidth"),
    (step("bands", min_gain=3), "min_gain is at most max_gain. Received: 3.0 and 2.0"),
    (step("spectral_noise", max_sigma=-1), "spectral_noise.max_sigma"),
    (step("fourier_mix", decay=-1), "fourier_mix.decay"),
])  # fmt: skip
def test_ranges_of_augmentations(policy, message):
    with pytest.raises(UserError, match=message):
        check_policy(policy, SIZE)


def test_every_number_of_an_augmentation_has_a_range():
    for name, entry in registry.AUGMENTATIONS.items():
        for parameter in inspect.signature(entry.load()).parameters.values():
            assert parameter.annotation not in (int, float), (name, parameter.name)


@pytest.mark.parametrize("quality", [30.0, "30"])
def test_converted_values_are_used(quality):
    (checked,) = check_policy(step("jpeg", min_quality=quality, max_quality=40), SIZE)
    assert checked.params == {"min_quality": 30, "max_quality": 40}
    assert type(checked.params["min_quality"]) is int


@pytest.mark.parametrize("name", [n for n in shipped_names("experiments") if "gridmask" not in n])
def test_shipped_policies_are_in_range(name):
    experiment = load_experiment(name)
    masks = experiment.model.mask_head is not None
    checked = check_policy(experiment.data.augment, experiment.data.image_size, masks)
    assert checked == experiment.data.augment


@pytest.mark.parametrize(("settings", "message"), [
    (["model.options.stem=0"], "model.options.stem: .*Received: 0"),
    (["model.options.widths=[0,8,8]"], "model.options.widths.0: .*Received: 0"),
    (["model.options.strides=[0,0,0]"], "model.options.strides.0"),
    (["model.options.blocks=[]"], "model.options.blocks"),
    (["model.options.blocks=1"], r"blocks: a list is expected, such as \[a, b\]. Received: 1"),
    (["model.head=hidden", "model.head_options.units=0"], "model.head_options.units"),
    (["model.front_end=bayar", "model.front_end_options.size=4"], "size: must be odd. Received: 4"),
    (["model.front_end=bayar", "model.front_end_options.size=1"], "front_end_options.size"),
    (["model.front_end=lfs", "model.front_end_options.bands=0"], "front_end_options.bands"),
    (["model.front_end=lfs", "model.front_end_options.bands=20"], "fewer than twice the window"),
    (["model.front_end=lfs", "model.front_end_options.window=33"], "at most the image's side, 32"),
    (["model.front_end=simplest_patch", "model.front_end_options.output=abc"], "options.output"),
    (["model.options.stem_size=1000"], "model.options.stem_size"),
    (["model.backbone=dinov2", "data.image_size=28", "model.options.num_layers=0"], "num_layers"),
    (["model.mask_head=decoder", "model.mask_options.width=1"], "mask_options.width"),
    (["model.mask_head=fcn", "model.mask_options.dropout=1"], "mask_options.dropout"),
    (["data.image_size=64", "model.backbone=iidnet", "model.options.cells=[[8, 0, 1, [fixed]]]"],
     "model.options.cells"),
    (["model.backbone=resnet18", "model.options.stackwise_num_strides=[0,0,0,0]"],
     "model.options"),
])  # fmt: skip
def test_ranges_of_networks(settings, message):
    with pytest.raises(UserError, match=message):
        build_detector(small(*settings), 2)


@pytest.mark.parametrize("name", sorted(registry.BACKBONES.built_in))
def test_no_backbone_takes_weights_that_do_not_exist(name):
    with pytest.raises(UserError, match=r"model.weights: .*'nothing'.* Use none"):
        build_backbone(name, (224, 224, 3), "nothing")


@pytest.mark.parametrize("settings", [
    ["model.weights=imagenet"], ["model.backbone=iidnet", "data.image_size=64"],
    ["model.front_end=srm"], ["model.front_end=srm", "model.with_pixels=true"],
])  # fmt: skip
def test_weights_that_do_not_exist_build_no_detector(settings):
    with pytest.raises(UserError, match="has no pretrained weights 'imagenet'. Use none, or"):
        build_detector(small(*settings, "model.weights=imagenet"), 2)


def test_a_plug_in_says_which_weights_there_are(monkeypatch):
    entries = {**registry.BACKBONES._entries}
    monkeypatch.setattr(registry.BACKBONES, "_entries", entries)

    @register_backbone("mine", presets=("faces",))
    def mine(shape, weights):
        image = keras.Input(shape)
        return keras.Model(image, keras.layers.Conv2D(2, 1)(image), name=weights)

    assert build_backbone("mine", (32, 32, 3), "faces").model.name == "faces"
    with pytest.raises(UserError, match="mine has no pretrained weights 'face'. Did you mean 'f"):
        build_backbone("mine", (32, 32, 3), "face")


@pytest.mark.parametrize(("settings", "message"), [
    (["data.augment=[{name: warp, rotatoin: 3}]"], "warp: unknown option 'rotatoin'"),
    (["data.augment=[{name: jpeg, min_quality: 90, max_quality: 20}]"], "at most max_quality"),
    (["data.dataset_weights={x: 1}"], "Unknown dataset in data.dataset_weights 'x'"),
    (["training.curriculum={by: generator, points: [{step: 0, shares: {a: 1}}]}"],
     "Unknown generator in training.curriculum 'a'. There is none"),
    (["model.mask_head=decoder"], "has no masks in its train split"),
    (["training.loss_options={gamma: 2}"], "training.loss_options: unknown option 'gamma'"),
    (["training.batch_size=500"], "fewer than one batch of 500"),
    (["training.track=[wandb]"], "training.track: wandb needs"),
    (["model.head=nearest_neighbors"], "nearest_neighbors compares"),
])  # fmt: skip
def test_a_plan_refuses_what_a_training_would(folder_dataset, tmp_path, settings, message,
                                              monkeypatch):  # fmt: skip
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        prepare_training(
            folder_dataset, "demo", output=tmp_path / "runs", progress=False,
            log=lambda text: None, overrides=["data.image_size=32", *settings],
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_plan_refuses_a_stage_that_freezes_no_layer():
    stages = "[{epochs: 1}, {epochs: 1, freeze: {names: [nothing*]}}]"
    with pytest.raises(UserError, match="no layer matches 'nothing"):
        build_checked(small(f"training.stages={stages}"), 2)


@pytest.mark.parametrize("name", shipped_names("experiments"))
def test_shipped_models_are_in_range(name):
    model = load_experiment(name).model
    check_model(model)
    if model.weights == "imagenet" and registry.BACKBONES[model.backbone].presets is None:
        assert not set(model.options) - {"size"}  # pretrained weights are of one network


@pytest.mark.parametrize(("settings", "message"), [
    (["model.options.stem=0"], "model.options.stem"),
    (["model.weights=imagenet"], "no pretrained weights 'imagenet'"),
    (["model.head_options.units=3"], "model.head_options: unknown option 'units'"),
    (["model.mask_options.width=8"], "mask_options: there is no mask head to take width"),
    (["model.front_end_options.size=3"], "there is no front-end to take size. Set model.front_end"),
])  # fmt: skip
def test_options_are_checked_before_anything_is_built(settings, message):
    with pytest.raises(UserError, match=message):
        check_model(small(*settings).model)


@pytest.mark.parametrize(("backbone", "option"), [
    ("resnet50", "use_pre_activation=true"), ("dinov2", "num_layers=2"),
    ("segformer_b0", "max_drop_path_rate=0.2"),
])  # fmt: skip
def test_options_are_not_ignored_beside_pretrained_weights(backbone, option):
    experiment = small(
        "data.image_size=224", f"model.backbone={backbone}", "model.weights=imagenet",
        f"model.options.{option}",
    )  # fmt: skip
    with pytest.raises(UserError, match="cannot be changed with model.weights=imagenet"):
        build_detector(experiment, 2)


def test_another_part_has_options_of_its_own():
    hidden = small("model.head=hidden", "model.head_options.units=8")
    assert override(hidden, ["model.head=linear"]).model.head_options == {}
    assert override(hidden, ["model.head=hidden"]).model.head_options == {"units": 8}
