"""CLIP's image transformer with coded weights, as features of how an image was made."""

from collections.abc import Sequence
from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field

from tfdetect.core.errors import UserError
from tfdetect.models.coded_matrix import CodedMatrix
from tfdetect.models.tensors import Tensor

_EPSILON = 1e-5
Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=12)], ...], Field(min_length=1)]


def clip_tokens(
    shape: tuple[int, int, int], weights: str, blocks: Blocks = (6, 7, 8)
) -> keras.Model:
    """Return CLIP ViT-B/16 as features: the class tokens of several blocks, side by side.

    The tokens of the middle blocks know more of how an image was made than the embedding, which is
    of its content (Koutlis and Papadopoulos, ECCV 2024; the encoder is of Radford et al., ICML
    2021). The shipped run photo_detector holds OpenAI's weights of the first eight blocks at 224
    pixels: `model.weights: photo_detector`.

    Args:
        shape: (height, width, 3), multiples of 16.
        weights: "none"; the path of a run is dealt with by the caller.
        blocks: whose class tokens are wanted, from 1 to 12. Blocks after the last are left out.

    Returns:
        Images [B, H, W, 3] standardized as for CLIP -> float32 [B, 1, 1, 768 times the blocks].

    Raises:
        UserError: another preset, or a side that is no multiple of 16.
    """
    if weights != "none":
        raise UserError(
            f"model.weights: clip_tokens has no preset {weights!r}. Use none, photo_detector for "
            "CLIP's own weights of eight blocks, or the path of a run or .keras file."
        )
    if shape[0] % 16 or shape[1] % 16:
        raise UserError(
            "clip_tokens takes images whose sides are multiples of 16. Received: data.image_size "
            f"{shape[0]} x {shape[1]}."
        )
    inputs = keras.Input(shape)
    tokens = ClipTokens(sorted(set(blocks)), name="tokens")(inputs)
    return keras.Model(inputs, tokens, name="clip_tokens")


@keras.saving.register_keras_serializable("tfdetect")
class ClipTokens(keras.layers.Layer):
    """A vision transformer as CLIP has it: images [B, H, W, 3] -> float32 [B, 1, 1, C].

    The matrices of attention have one byte for two weights, those of the layers after it one byte
    for three.

    Attributes:
        blocks: numbers of the blocks, from 1, whose class tokens are returned; C is their number
            times the width.
        width: the width of the tokens.
        heads: the number of heads of the attention.
        patch: side of a patch in pixels.
    """

    def __init__(
        self, blocks: Sequence[int], width: int = 768, heads: int = 12, patch: int = 16,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.blocks, self.width, self.heads, self.patch = [*blocks], width, heads, patch

    def build(self, shape: tuple) -> None:
        width, patch = self.width, self.patch
        self.count = (shape[1] // patch) * (shape[2] // patch)
        self.pixels = CodedMatrix.add(self, "patch", patch * patch * shape[3], width, 1)
        self.start = self._vectors(
            "start", class_token=(width,), positions=(self.count + 1, width),
            norm_scale=(width,), norm_shift=(width,),
        )  # fmt: skip
        self.matrices: list[dict[str, CodedMatrix]] = []
        self.vectors: list[dict[str, keras.Variable]] = []
        for number in range(1, max(self.blocks) + 1):
            prefix = f"block{number}"
            sizes = {
                "attention": (width, 3 * width, 2), "joined": (width, width, 2),
                "wide": (width, 4 * width, 3), "narrow": (4 * width, width, 3),
            }  # fmt: skip
            self.matrices.append({
                name: CodedMatrix.add(self, f"{prefix}_{name}", *size)
                for name, size in sizes.items()
            })  # fmt: skip
            self.vectors.append(self._vectors(
                prefix, norm1_scale=(width,), norm1_shift=(width,), attention_bias=(3 * width,),
                joined_bias=(width,), norm2_scale=(width,), norm2_shift=(width,),
                wide_bias=(4 * width,), narrow_bias=(width,),
            ))  # fmt: skip

    def _vectors(self, prefix: str, **shapes: tuple[int, ...]) -> dict[str, keras.Variable]:
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
        batch, rows, columns = ops.shape(images)[0], *(s // self.patch for s in images.shape[1:3])
        x = ops.reshape(images, (batch, rows, self.patch, columns, self.patch, images.shape[3]))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        x = self.pixels.multiply(ops.reshape(x, (batch, self.count, self.pixels.codes.shape[0])))
        first = ops.broadcast_to(self.start["class_token"], (batch, 1, self.width))
        x = ops.concatenate([first, x], axis=1) + self.start["positions"]
        x = self._normalized(x, self.start["norm_scale"], self.start["norm_shift"])
        tokens = []
        for number, (matrices, vectors) in enumerate(zip(self.matrices, self.vectors), 1):
            # Of the last block the class token alone is wanted.
            returned = 1 if number == len(self.matrices) else x.shape[1]
            x = self._block(x, matrices, vectors, returned)
            if number in self.blocks:
                tokens.append(ops.cast(x[:, 0], "float32"))
        return ops.reshape(
            ops.concatenate(tokens, axis=-1), (batch, 1, 1, self.width * len(tokens))
        )

    def _block(
        self, x: Tensor, matrices: dict[str, CodedMatrix], vectors: dict[str, keras.Variable],
        returned: int,
    ) -> Tensor:  # fmt: skip
        """Return the first `returned` tokens after a block."""

        def dense(y: Tensor, name: str) -> Tensor:
            return matrices[name].multiply(y) + vectors[f"{name}_bias"]

        y = self._normalized(x, vectors["norm1_scale"], vectors["norm1_shift"])
        y = dense(y, "attention")
        y = ops.reshape(y, (ops.shape(x)[0], x.shape[1], 3, self.heads, self.width // self.heads))
        y = ops.dot_product_attention(y[:, :returned, 0], y[:, :, 1], y[:, :, 2])
        y = ops.reshape(y, (ops.shape(x)[0], returned, self.width))
        x = x[:, :returned] + dense(y, "joined")
        y = self._normalized(x, vectors["norm2_scale"], vectors["norm2_shift"])
        y = dense(y, "wide")
        y = y * ops.sigmoid(1.702 * y)  # OpenAI's approximation of GELU
        return x + dense(y, "narrow")

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
        return super().get_config() | own
