"""Devices and memory limits, as far as a CPU can show. What needs a GPU is unverified."""

import pytest

from tfdetect.core.errors import UserError
from tfdetect.training.devices import (
    MemoryLimit,
    choose_precision,
    configure_devices,
    cpu_computes_bfloat16,
    parse_gpus,
    parse_memory_limit,
)


def test_gpus():
    assert parse_gpus(None) is None
    assert parse_gpus("none") == []
    assert parse_gpus("0,2") == [0, 2]


@pytest.mark.parametrize("text", ["a", "0,,1", "0,0", "-1", ""])
def test_mistaken_gpus(text):
    with pytest.raises(UserError, match="--gpus"):
        parse_gpus(text)


def test_memory_limits():
    assert parse_memory_limit("0.95") == {None: MemoryLimit(fraction=0.95)}
    assert parse_memory_limit("14GiB") == {None: MemoryLimit(size=14 * 2**30)}
    assert parse_memory_limit("512MiB") == {None: MemoryLimit(size=2**29)}
    assert parse_memory_limit("0=0.9,1=10GiB") == {
        0: MemoryLimit(fraction=0.9), 1: MemoryLimit(size=10 * 2**30)
    }  # fmt: skip


@pytest.mark.parametrize("text", ["14", "0", "1.5", "x", "0.9GiBB", "a=0.5", "1..2", "", "-0.5"])
def test_mistaken_memory_limits(text):
    with pytest.raises(UserError, match="--gpu-memory-limit"):
        parse_memory_limit(text)


def test_a_gpu_that_is_not_there():
    with pytest.raises(UserError, match="GPU 0 was requested, but no GPU was found"):
        configure_devices([0])
    with pytest.raises(UserError, match="no GPU is used"):
        configure_devices(None, parse_memory_limit("0.5"))


def test_one_device_needs_no_strategy():
    assert configure_devices().strategy is None
    assert configure_devices(virtual=1).strategy is None
    with pytest.raises(UserError, match="--virtual-devices trains on the CPU. Leave out --gpus"):
        configure_devices([0], virtual=2)
    three = configure_devices(virtual=3)
    assert three.strategy.num_replicas_in_sync == 3


@pytest.mark.parametrize("capability, expected", [
    ((9, 0), "mixed_bfloat16"), ((8, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16"),
    ((6, 1), "float32"),
])  # fmt: skip
def test_half_precision_where_the_weakest_device_has_it(monkeypatch, capability, expected):
    import tensorflow as tf

    details = {"a": {"compute_capability": (9, 0)}, "b": {"compute_capability": capability}}
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a", "b"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details.get)
    assert choose_precision("auto", 2) == expected
    assert choose_precision("float32", 2) == "float32"


def test_half_precision_on_this_processor(tmp_path):
    has = cpu_computes_bfloat16()
    assert choose_precision("auto", 0) == ("mixed_bfloat16" if has else "float32")
    assert choose_precision("mixed_bfloat16", 0) == "mixed_bfloat16"
