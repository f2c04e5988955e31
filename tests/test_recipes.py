"""Experiments that follow a recipe from elsewhere, against its numbers written out."""

import re

import keras
import pytest
from keras import layers

from tfdetect.core import registry
from tfdetect.core.load_experiment import load_experiment
from tfdetect.core.shipped_documents import shipped_names
from tfdetect.models.backbones import build_backbone
from tfdetect.training.callback_list import all_callbacks, callbacks_with_memory
from tfdetect.training.monitor import monitor_of
from tfdetect.training.optimizer import build_optimizer
from tfdetect.training.state import TrainState

FILES = shipped_names("experiments")
# Values of the recipes, by experiment.
FOCAL_LOSS = {
    "training.epochs": 100,  # at most
    "training.batch_size": 8,
    "training.optimizer.name": "adam",
    "training.optimizer.learning_rate": 1e-4,
    "training.early_stopping": 5,
    "training.mask_loss.name": "focal",
    "training.mask_loss.alpha": 0.25,
    "training.mask_loss.gamma": 2,
    "training.mask_loss.label_weight": 0,  # masks alone
}
TRANSFER = {
    "data.image_size": (224, 224),
    "data.resize": "stretch",
    "model.weights": "imagenet",
    "model.front_end": "pixels",
    "model.freeze.first": None,
    "model.freeze.fraction": None,
    "training.batch_size": 32,
    "training.schedule.name": "plateau",
    "training.schedule.patience": 2,
    "training.schedule.min_lr": 1e-6,
    "training.early_stopping": 3,
    "training.monitor": "loss",  # the original's is the training loss, ours the validation's
    "training.label_smoothing": 0,
    "training.tensorboard.histograms": 1,
}
THESIS = {
    "data.image_size": (224, 224),
    "data.augment": (),
    "training.epochs": 30,
    "training.optimizer.name": "adam",
    "training.optimizer.learning_rate": 0.002,
    "training.optimizer.weight_decay": 1e-4,
}
THESIS_MASKS = {"training.batch_size": 60, "training.mask_loss.name": "bce_dice"}  # 3 GPUs x 20
THESIS_F3NET = {"model.options": {"mode": "mix", "middle_blocks": 4, "mix_after": [9, 12]}}
RECIPES = {
    "fcn_resnet50": {
        **FOCAL_LOSS,
        "data.image_size": (512, 512),
        "data.resize": "window_pad",  # padded on the bottom and on the right
        "data.augment": (),
        "model.backbone": "resnet50_dilated",
        "model.mask_head": "fcn",
        "model.mask_options": {},  # its auxiliary head is not trained
    },
    "nixnet": {
        **FOCAL_LOSS,
        "model.front_end": "srm",
        "model.with_pixels": True,
        "model.backbone": "nixnet",
        "model.mask_head": "nixnet",
        "training.optimizer.weight_decay": 1e-3,
    },
    "cifake_densenet121": {
        **TRANSFER,
        "model.backbone": "densenet121",
        "model.head": "conv_dense",
        "model.dropout": 0.5,
        "model.l2": 0.01,
        "training.epochs": 10,
        "training.optimizer.name": "adam",
        "training.optimizer.learning_rate": 0.001,
        "training.schedule.factor": 0.1,
    },
    "deepfakeart_xception": {
        **TRANSFER,
        "model.backbone": "xception",
        "model.head": "linear",
        "model.dropout": 0.5,
        "training.epochs": 15,
        "training.optimizer.name": "sgd",
        "training.optimizer.learning_rate": 0.1,
        "training.optimizer.momentum": 0.9,
        "training.optimizer.nesterov": False,
        "training.schedule.factor": 0.001,
    },
    "genimage_resnet50": {
        "data.image_size": (224, 224),
        "model.backbone": "resnet50",
        "model.weights": "none",
        "training.epochs": 200,
        "training.batch_size": 128,  # 2 GPUs x 64
        "training.optimizer.name": "sgd",
        "training.optimizer.learning_rate": 0.05,
        "training.optimizer.momentum": 0.9,
        "training.optimizer.weight_decay": 2e-5 / (1 - 0.9),  # without the momentum's factor
        "training.schedule.name": "cosine",
        "training.schedule.warmup_epochs": 3,
        "training.label_smoothing": 0.1,
    },
    "genimage_swin_t": {
        "data.image_size": (224, 224),
        "model.backbone": "swin_t",
        "model.weights": "none",
        "training.epochs": 300,
        "training.batch_size": 512,
        "training.optimizer.name": "adamw",
        "training.optimizer.learning_rate": 5e-4,
        "training.optimizer.weight_decay": 0.05,
        "training.optimizer.clip_norm": 5,
        "training.schedule.name": "cosine",
        "training.schedule.warmup_epochs": 20,
        "training.label_smoothing": 0.1,
    },
    "genimage_deit_s": {
        "data.image_size": (224, 224),
        "model.backbone": "deit_s",
        "model.weights": "none",
        "training.epochs": 300,
        "training.batch_size": 512,
        "training.optimizer.name": "adamw",
        "training.optimizer.learning_rate": 5e-4,
        "training.optimizer.weight_decay": 0.05,
        "training.schedule.name": "cosine",
        "training.schedule.warmup_epochs": 5,
        "training.label_smoothing": 0.1,
    },
    "f3net_faces": {**THESIS, **THESIS_F3NET, "training.batch_size": 192},  # 3 GPUs x 64
    "f3net_faces_masks": {**THESIS, **THESIS_F3NET, **THESIS_MASKS, "model.mask_head": "f3net"},
    "graftnet": {**THESIS, **THESIS_MASKS, "model.mask_head": "graftnet"},
    "iidnet": {
        "data.image_size": (256, 256),
        "training.batch_size": 24,
        "training.optimizer.name": "adam",
        "training.optimizer.learning_rate": 1e-4,
        "training.schedule.name": "plateau",
        "training.schedule.factor": 0.5,
        "training.schedule.patience": 10,
    },
}


def value_at(experiment, key):
    value = experiment
    for part in key.split("."):
        value = getattr(value, part)
    return value


# Of the numbers above, as the headers of experiments name them.
SOURCES = (
    r"unpublished recipe|graduate thesis|MPDL_Project_2|InpaintingForensics|GenImage; (SGD|rate)"
)


def test_every_experiment_that_names_such_a_source_is_here():
    sources = {name: re.search(r"# Source:.*(\n#  .*)*", file.read_text())
               for name, file in FILES.items()}  # fmt: skip
    claiming = {n for n, found in sources.items() if found and re.search(SOURCES, found[0])}
    assert claiming == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_their_numbers(name):
    experiment = load_experiment(name)
    for key, value in RECIPES[name].items():
        found = value_at(experiment, key)
        is_number = isinstance(value, float)
        assert found == (pytest.approx(value) if is_number else value), key


TRANSFER_NAMES = ("cifake_densenet121", "deepfakeart_xception")
FACTORS = {"cifake_densenet121": 0.1, "deepfakeart_xception": 0.001}


@pytest.mark.parametrize("name", TRANSFER_NAMES)
def test_transfer_learning_augments_within_its_ranges(name):
    [step] = load_experiment(name).data.augment
    assert step.name == "warp"
    assert step.params == {"rotation": 20, "shift": 0.1, "shear": 0.2, "zoom": 0.2, "flip": True}


@pytest.mark.parametrize("name", TRANSFER_NAMES)
def test_transfer_learning_watches_with_keras_callbacks(name, tmp_path):
    """The callbacks as Keras gets them, not the experiment's keys."""
    experiment = load_experiment(name)
    adapting = callbacks_with_memory(experiment.training)
    state = TrainState(tmp_path, monitor_of(experiment.training), adapting)
    [plateau, stopping] = adapting
    assert isinstance(plateau, keras.callbacks.ReduceLROnPlateau)
    assert (plateau.factor, plateau.patience, plateau.min_lr) == (FACTORS[name], 2, 1e-6)
    assert isinstance(stopping, keras.callbacks.EarlyStopping) and stopping.patience == 3
    assert {(c.monitor, c.mode) for c in adapting} == {("val_log_loss", "min")}
    board = all_callbacks(experiment.training, state, None, (), tmp_path)[-1]
    assert isinstance(board, keras.callbacks.TensorBoard) and board.histogram_freq == 1


def test_transfer_learning_optimizers():
    adam = build_optimizer(load_experiment("cifake_densenet121").training, 100)
    assert type(adam) is keras.optimizers.Adam
    assert float(adam.learning_rate) == pytest.approx(0.001)
    assert not adam.weight_decay and not adam.clipnorm
    sgd = build_optimizer(load_experiment("deepfakeart_xception").training, 100)
    assert type(sgd) is keras.optimizers.SGD
    assert float(sgd.learning_rate) == pytest.approx(0.1)
    assert (sgd.momentum, sgd.nesterov) == (0.9, False)


def head_layers(name, channels):
    """The head of an experiment on features as its backbone leaves them."""
    model = load_experiment(name).model
    features = keras.Input((7, 7, channels))
    logits = registry.HEADS.load(model.head)(features, 1, model.dropout, model.l2)
    return keras.Model(features, logits).layers[1:]


def test_head_of_the_cifake_detector():
    conv1, conv2, flatten, dense1, dense2, dropout, label = head_layers("cifake_densenet121", 1024)
    for layer, filters in ((conv1, 16), (conv2, 32)):
        assert type(layer) is layers.Conv2D
        assert (layer.filters, layer.kernel_size) == (filters, (3, 3))
        assert layer.activation is keras.activations.relu
    assert type(flatten) is layers.Flatten
    for layer, units in ((dense1, 128), (dense2, 64)):
        assert type(layer) is layers.Dense
        assert layer.units == units
        assert layer.activation is keras.activations.relu
        assert float(layer.kernel_regularizer.l2) == pytest.approx(0.01)
    assert type(dropout) is layers.Dropout and dropout.rate == 0.5
    assert label.units == 1  # its sigmoid is in the loss and in the export


def test_head_of_the_deepfakeart_detector():
    pool, dropout, label = head_layers("deepfakeart_xception", 2048)
    assert type(pool) is layers.GlobalAveragePooling2D
    assert type(dropout) is layers.Dropout and dropout.rate == 0.5
    assert type(label) is layers.Dense and label.units == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [
    ("cifake_densenet121", 427), ("deepfakeart_xception", 132)
])  # fmt: skip
def test_transfer_learning_trains_all_layers_of_its_backbone(name, count):
    """Those that it meant to freeze, it does not."""
    model = load_experiment(name).model
    backbone = build_backbone(model.backbone, (224, 224, 3), "none").model
    assert len(backbone.layers) == count
    assert all(layer.trainable for layer in backbone.layers)
