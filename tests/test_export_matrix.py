"""Every backbone in every export format: what it gives, or what the format cannot express."""

import gc
import resource
import time

import pytest
from conftest import run_at
from test_models import FULL, NETWORKS, REDUCED, detector

from tfdetect.core.process_pool import process_pool
from tfdetect.core.registry import BACKBONES
from tfdetect.models import exports
from tfdetect.models.saving import save_detector

LAYOUT = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32}
SIZES = {
    **{name: (size, options) for name, (size, options) in REDUCED.items()},
    **{name: (size, {}) for name, size in FULL.items()},
    **{name: (max(BACKBONES[name].min_size, 64), {}) for name in NETWORKS},
    "nixnet": (64, {"size": 40}),
    "clip_tokens": (32, {"blocks": [1]}),
    **{name: (28, {**LAYOUT, "patch_size": 14}) for name in ("clip", "dinov2")},
    **{name: (32, {**LAYOUT, "patch_size": 16}) for name in ("siglip", "dinov3")},
}
SETTINGS = {"nixnet": {"front_end": "srm", "with_pixels": "true"}}  # what else a network needs
FORMATS = [name for name in exports.FORMATS if not name.startswith("saved_model")]  # test_models.py
# The pairs that docs/guides/deployment.md names, by backbone: formats, and the reason in a word.
CANNOT = {
    "dinov3": (("openvino",), "as openvino"),  # it cannot infer shapes of the attention
}


def export(backbone, folder):
    """Return the exports of a network with random weights, and the messages of those refused."""
    gc.enable()  # conftest.py turns it off, for pytest
    size, options = SIZES[backbone]
    run, refused = run_at(folder, side=size), []
    network = detector(backbone, size, options, **SETTINGS.get(backbone, {}))
    save_detector(network, run.model_path)
    written = exports.write_exports(run, FORMATS, on_error=refused.append)
    for each in (*written, *refused):
        print(backbone, each, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{backbone} took {time.process_time():.0f} s and {peak / 2**20:.1f} GiB", flush=True)
    return {each.format: each.max_difference for each in written}, [str(each) for each in refused]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SIZES)
def test_every_backbone_in_every_format(backbone, tmp_path):
    """In a process of its own for each: the memory that conversions take ends with it."""
    for name in FORMATS:
        for module in exports.FORMATS[name].modules:
            pytest.importorskip(module)
    with process_pool(1) as pool:
        written, refused = pool.submit(export, backbone, tmp_path).result()
    cannot, reason = CANNOT.get(backbone, ((), ""))
    assert set(written) == set(FORMATS) - set(cannot), refused
    assert all(reason in message for message in refused) and len(refused) == len(cannot)
    for name, difference in written.items():
        assert difference <= exports.FORMATS[name].tolerance, name
