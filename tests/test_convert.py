"""Published weights: the same scores as a forward pass written with PyTorch's functions."""

import json

import numpy as np
import pytest
import tensorflow as tf

torch = pytest.importorskip("torch", reason='pip install "tfdetect[convert]"')
F = torch.nn.functional

from tfdetect import workflow
from tfdetect.cli import run_command
from tfdetect.convert import main
from tfdetect.errors import UserError
from tfdetect.experiment import load_model, override
from tfdetect.models.detector import load_detector
from tfdetect.models.weights import convertible

LAYOUT = {"cnnspot": ([3, 4, 6, 3], True, "fc", 1), "spec": ([3, 4, 6, 3], False, "fc", 2),
          "npr": ([3, 4], True, "fc1", 1), "safe": ([3, 4], True, "fc1", 2)}  # fmt: skip
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def random_state(name):
    """A state dict of torchvision's names, randomly filled."""
    blocks, bottleneck, head, logits = LAYOUT[name]
    generator = torch.Generator().manual_seed(0)
    state = {}

    def conv(key, out, into, size):
        scale = (2 / (into * size * size)) ** 0.5
        state[f"{key}.weight"] = torch.randn(out, into, size, size, generator=generator) * scale

    def norm(key, width):
        state[f"{key}.weight"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{key}.bias"] = torch.randn(width, generator=generator) * 0.1
        state[f"{key}.running_mean"] = torch.randn(width, generator=generator) * 0.1
        state[f"{key}.running_var"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 64, 3, 3 if len(blocks) == 2 else 7)
    norm("bn1", 64)
    into = 64
    for stage, count in enumerate(blocks, 1):
        width = 32 * 2**stage
        out = 4 * width if bottleneck else width
        for block in range(count):
            key = f"layer{stage}.{block}"
            shapes = [(width, into, 1), (width, width, 3), (out, width, 1)] if bottleneck else [
                (width, into, 3), (width, width, 3)]  # fmt: skip
            for number, shape in enumerate(shapes, 1):
                conv(f"{key}.conv{number}", *shape)
                norm(f"{key}.bn{number}", shape[0])
            state[f"{key}.bn{len(shapes)}.weight"] *= 0.2  # or the scores would saturate
            if block == 0 and (stage > 1 or bottleneck):
                conv(f"{key}.downsample.0", out, into, 1)
                norm(f"{key}.downsample.1", out)
            into = out
    state[f"{head}.weight"] = torch.randn(logits, into, generator=generator) * 0.05
    state[f"{head}.bias"] = torch.randn(logits, generator=generator)
    return state


def reference(name, state, images):
    """P(fake) of images float [B, 3, H, W] in 0..255, RGB, as the project computes it."""
    blocks, bottleneck, head, _ = LAYOUT[name]
    x = images / 255

    def norm(x, key):
        parts = (state[f"{key}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-5)

    def conv(x, key, stride=1):
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    if name == "cnnspot":
        x = (x - MEAN) / STD
    elif name == "npr":
        x = (x - MEAN) / STD
        half = F.interpolate(x, scale_factor=0.5, mode="nearest", recompute_scale_factor=True)
        x = (x - F.interpolate(half, scale_factor=2.0, mode="nearest")) * 2 / 3
    elif name == "safe":
        low = np.array([0, 0, -(0.5**0.5), 0.5**0.5, 0, 0])[::-1]
        import pywt

        assert np.allclose(pywt.Wavelet("bior1.3").dec_hi, low[::-1])
        _, (_, _, hh) = pywt.dwt2(x.numpy(), "bior1.3", mode="symmetric")
        x = F.interpolate(torch.tensor(hh, dtype=torch.float32), size=images.shape[2:],
                          mode="bilinear", align_corners=False)  # fmt: skip
    else:  # BGR; the percentiles of each spectrum
        spectrum = np.log(np.abs(np.fft.fft2(x.flip(1).numpy())) + 1e-3)
        low, high = np.percentile(spectrum, [5, 95], axis=(2, 3), keepdims=True)
        x = torch.tensor(np.clip(2 * ((spectrum - low) / (high - low) - 0.5), -1, 1)).float()
    x = F.relu(norm(conv(x, "conv1", 2), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            key, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            skip = x
            if f"{key}.downsample.0.weight" in state:
                skip = norm(conv(x, f"{key}.downsample.0", stride), f"{key}.downsample.1")
            if bottleneck:  # the stride is in the 3x3
                y = F.relu(norm(conv(x, f"{key}.conv1"), f"{key}.bn1"))
                y = F.relu(norm(conv(y, f"{key}.conv2", stride), f"{key}.bn2"))
                y = norm(conv(y, f"{key}.conv3"), f"{key}.bn3")
            else:
                y = F.relu(norm(conv(x, f"{key}.conv1", stride), f"{key}.bn1"))
                y = norm(conv(y, f"{key}.conv2"), f"{key}.bn2")
            x = F.relu(y + skip)
    logits = F.linear(x.mean((2, 3)), state[f"{head}.weight"], state[f"{head}.bias"])
    if logits.shape[1] == 1:
        return torch.sigmoid(logits[:, 0])
    return torch.softmax(logits, 1)[:, 0 if name == "spec" else 1]


def converted(name, state, tmp_path, size=64, wrap="model"):
    file = tmp_path / "weights.pth"
    torch.save({wrap: state, "total_steps": 3} if wrap else state, file)
    experiment = override(load_model(name), [f"data.image_size={size}"])
    return workflow.convert_run(file, experiment, tmp_path / "run")


@pytest.mark.parametrize("name", LAYOUT)
def test_converted_weights_score_as_published(name, tmp_path):
    state = random_state(name)
    run = converted(name, state, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype("float32")
    scores = tf.sigmoid(load_detector(run)(images)["label"]).numpy()[:, 0]
    expected = reference(name, state, torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-3  # they differ, so that agreement says something


def test_the_linear_layer_of_universal_fake_detect(tmp_path):
    weight, bias = torch.randn(1, 512), torch.tensor([0.3])
    file = tmp_path / "fc.pth"
    torch.save({"weight": weight, "bias": bias}, file)
    tiny = "{size: b16, patch_size: 14, hidden_dim: 32, num_layers: 1, num_heads: 2, "
    experiment = override(load_model("probe"), [
        "model.weights=none", f"model.options={tiny}intermediate_dim: 32}}", "data.image_size=28",
    ])  # fmt: skip
    run = workflow.convert_run(file, experiment, tmp_path / "run")
    dense = load_detector(run).get_layer("label")
    np.testing.assert_allclose(dense.kernel.numpy()[:, 0], weight[0])
    np.testing.assert_allclose(dense.bias, bias)


def test_a_converted_run_predicts_and_is_evaluated(tmp_path, folder_dataset, capsys):
    run = converted("npr", random_state("npr"), tmp_path, wrap="state_dict")
    assert run.info["status"] == "converted"
    from tfdetect import evaluate, predict

    picture = next((folder_dataset / "test" / "fake").glob("*.png"))
    assert run_command(predict.main, [str(run.path), str(picture)]) == 0
    assert run_command(evaluate.main, [str(run.path)]) == 2
    assert "Give --dataset" in capsys.readouterr().err
    assert run_command(evaluate.main, [
        str(run.path), "--dataset", str(folder_dataset), "--split", "test", "--no-pictures",
    ]) == 0  # fmt: skip
    metrics = next((run.path / "evaluations").glob("*/metrics.json"))
    assert "accuracy" in json.loads(metrics.read_text())["test"]["metrics"]


def test_wrong_weights_are_explained(tmp_path, capsys):
    state = random_state("npr")
    with pytest.raises(UserError, match=r"not the weights of npr: conv1.weight is missing"):
        converted("npr", {k: v for k, v in state.items() if k != "conv1.weight"}, tmp_path)
    with pytest.raises(UserError, match=r"extra belongs nowhere"):
        converted("npr", {**state, "extra": torch.zeros(2)}, tmp_path)
    with pytest.raises(UserError, match=r"conv1.weight has the shape \(8, 3, 3, 3\)"):
        converted("npr", {**state, "conv1.weight": torch.zeros(8, 3, 3, 3)}, tmp_path)
    assert not list(tmp_path.glob("run*"))
    with pytest.raises(UserError, match="cannot be converted"):
        workflow.convert_run(tmp_path / "weights.pth", load_model("swin_t"), tmp_path / "run")
    junk = tmp_path / "junk.pth"
    junk.write_bytes(b"nothing")
    for file, message in ((junk, "cannot be read as PyTorch"), (tmp_path / "no.pth", "no file")):
        assert run_command(main, [str(file), "--model", "npr", "--output", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    torch.save([1, 2], junk)
    with pytest.raises(UserError, match="no dictionary of tensors"):
        workflow.convert_run(junk, load_model("npr"), tmp_path / "run")
    assert set(convertible()) == {*LAYOUT, "probe"}
