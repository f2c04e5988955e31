"""Every backbone in every export format: what it gives, or what the format cannot express."""

import pytest
from conftest import run_at
from test_models import FULL, NETWORKS, REDUCED, detector

from tfdetect.core.errors import UserError
from tfdetect.core.registry import BACKBONES
from tfdetect.models import exports
from tfdetect.models.saving import save_detector

LAYOUT = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "intermediate_dim": 32}
SIZES = {
    **{name: (size, options) for name, (size, options) in REDUCED.items()},
    **{name: (size, {}) for name, size in FULL.items()},
    **{name: (max(BACKBONES[name].min_size, 64), {}) for name in NETWORKS},
    "nixnet": (64, {"size": 40}),
    **{name: (28, {**LAYOUT, "patch_size": 14}) for name in ("clip", "dinov2")},
    **{name: (32, {**LAYOUT, "patch_size": 16}) for name in ("siglip", "dinov3")},
}
SETTINGS = {"nixnet": {"front_end": "srm", "with_pixels": "true"}}  # what else a network needs
# The pairs that docs/guides/deployment.md names, by backbone: formats, and the reason in a word.
CANNOT = {
    "gramnet": (("onnx_float16",), "differs by nan"),  # its products leave half precision
    "graftnet": (("litert", "litert_float16", "litert_int8", "openvino"), "Cannot export"),
    "dinov3": (("openvino",), "Cannot export"),
    "segformer_b0": (("onnx", "onnx_float16", "openvino"), "Cannot export"),
    "f3net": (("litert", "litert_float16", "litert_int8", "openvino"), "Cannot export"),
}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SIZES)
def test_every_backbone_in_every_format(backbone, tmp_path):
    size, options = SIZES[backbone]
    run = run_at(tmp_path, side=size)
    network = detector(backbone, size, options, **SETTINGS.get(backbone, {}))
    save_detector(network, run.model_path)
    refused, reason = CANNOT.get(backbone, ((), ""))
    for name, form in exports.FORMATS.items():
        if name.startswith("saved_model"):  # test_models.py
            continue
        for module in form.modules:
            pytest.importorskip(module)
        if name in refused:
            with pytest.raises(UserError, match=reason):
                exports.write_exports(run, [name])
            continue
        [written] = exports.write_exports(run, [name])
        assert written.max_difference <= form.tolerance
