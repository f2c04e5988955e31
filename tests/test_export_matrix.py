"""Every backbone and front-end in every export format: what it gives, or cannot express."""

import gc
import re
import resource
import time

import pytest
from conftest import run_at
from test_models import FULL, NETWORKS, REDUCED, detector

from tfdetect.core.process_pool import process_pool
from tfdetect.core.registry import BACKBONES, FRONT_ENDS
from tfdetect.models import exports
from tfdetect.models.saving import save_detector

LAYOUT = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32}
SIZES = {
    **{name: (size, options) for name, (size, options) in REDUCED.items()},
    **{name: (size, {}) for name, size in FULL.items()},
    **{name: (max(BACKBONES[name].min_size, 64), {}) for name in NETWORKS},
    "swin_t": (224, {**REDUCED["swin_t"][1], "depths": [2, 1]}),  # the second block is shifted
    "trace_statistics": (64, {}),
    "nixnet": (64, {"size": 40}),
    "clip_tokens": (32, {"blocks": [1]}),
    **{name: (28, {**LAYOUT, "patch_size": 14}) for name in ("clip", "dinov2")},
    **{name: (32, {**LAYOUT, "patch_size": 16}) for name in ("siglip", "dinov3")},
}
SETTINGS = {"nixnet": {"front_end": "srm", "with_pixels": "true"}}  # what else a network needs
# For the SavedModel see test_models.py, and for onnx_shared test_shared_weights.py.
ELSEWHERE = ("saved_model", "saved_model_webp", "onnx_shared")
FORMATS = [name for name in exports.FORMATS if name not in ELSEWHERE]
# The pairs that docs/guides/deployment.md names, by network: formats, and the reason in a word.
LITERT = ("litert", "litert_float16", "litert_int8")
CANNOT = {
    "dinov3": (("openvino",), "as openvino"),  # it cannot infer shapes of the attention
    "spectrum": (LITERT, "as litert"),  # percentiles
    "simplest_patch": (("onnx", "onnx_float16", "openvino", *LITERT), "BitwiseAnd|Bitcast"),
}


def export(name, backbone, folder, size, options, settings):
    """Return the exports of a network with random weights, and the messages of those refused."""
    gc.enable()  # conftest.py turns it off, for pytest
    run, refused = run_at(folder, side=size), []
    network = detector(backbone, size, options, **settings)
    save_detector(network, run.model_path)
    written = exports.write_exports(run, FORMATS, on_error=refused.append)
    for each in (*written, *refused):
        print(name, each, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name} took {time.process_time():.0f} s and {peak / 2**20:.1f} GiB", flush=True)
    return {each.format: each.max_difference for each in written}, [str(each) for each in refused]


def test_no_backbone_is_left_out():
    assert set(SIZES) == set(BACKBONES.built_in)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SIZES)
def test_every_backbone_in_every_format(backbone, tmp_path):
    check(backbone, backbone, tmp_path, *SIZES[backbone], SETTINGS.get(backbone, {}))


@pytest.mark.slow
@pytest.mark.parametrize("front_end", [name for name in FRONT_ENDS.built_in if name != "pixels"])
def test_every_front_end_in_every_format(front_end, tmp_path):
    options = REDUCED["small_resnet"][1]
    check(front_end, "small_resnet", tmp_path, 64, options, {"front_end": front_end})


def check(network, *arguments):
    """In a process of its own for each: the memory that conversions take ends with it."""
    for name in FORMATS:
        for module in exports.FORMATS[name].modules:
            pytest.importorskip(module)
    with process_pool(1) as pool:
        written, refused = pool.submit(export, network, *arguments).result()
    cannot, reason = CANNOT.get(network, ((), ""))
    assert set(written) == set(FORMATS) - set(cannot), refused
    assert all(re.search(reason, message) for message in refused) and len(refused) == len(cannot)
    for name, difference in written.items():
        assert difference <= exports.FORMATS[name].tolerance, name
