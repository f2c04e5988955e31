"""Set a detector's variables to published PyTorch weights."""

import re
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from tfdetect.core.errors import UserError, first_line
from tfdetect.models.published_names import PUBLISHED, Slot, slots_of, stack_filters

# By their names in .safetensors files.
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip


def convertible() -> list[str]:
    """Return the names of the detectors whose published weights can be converted."""
    return sorted(PUBLISHED)


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .pth, .pt, .bin or .safetensors file, by name.

    Raises:
        UserError: there is no such file, it cannot be read, or a package is missing.
    """
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = _read_safetensors(path)
        else:
            import torch

            state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UserError(
            f'{error.name} is needed to read {path.name}: pip install "tfdetect[convert]"'
        ) from error
    except Exception as error:  # pickle and zip raise many kinds for a bad file
        raise UserError(
            f"{path} cannot be read as PyTorch weights: {first_line(error)[:200]}"
        ) from error
    for key in ("model", "state_dict", "net"):  # what training scripts wrap them in
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(hasattr(v, "shape") for v in state.values()):
        raise UserError(f"{path} contains no dictionary of tensors.")
    return {name.removeprefix("module."): _as_array(value) for name, value in state.items()}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a .safetensors file; the package's own reader knows no bfloat16."""
    from safetensors import deserialize

    return {
        name: np.frombuffer(view["data"], _TYPES[view["dtype"]]).reshape(view["shape"])
        for name, view in deserialize(path.read_bytes())
    }


def _as_array(tensor: Any) -> np.ndarray:
    """Return a tensor as an array; bfloat16, which NumPy does not know, as float32."""
    if str(tensor.dtype).endswith("bfloat16"):
        tensor = tensor.float() if hasattr(tensor, "float") else tensor.astype(np.float32)
    return np.asarray(tensor)


def convert(
    detector: keras.Model, name: str, state: dict[str, np.ndarray], names: dict[str, str]
) -> list[tuple[str, str, bool]]:
    """Set the weights of a detector to published ones.

    Tensors whose published names are not known are assigned in their order, those of the same shape
    and kind one after the other, as the network is defined.

    Args:
        detector: the detector of the experiment `name`, from `build_detector`.
        name: the name of the published detector.
        state: tensors by their published names, in the file's order.
        names: published name of variables, "layer/variable", where it is to be another one.

    Returns:
        For each variable its name, the published name, and whether that was known.

    Raises:
        UserError: the weights are another network's; the message names what is missing, of another
            shape or superfluous.
    """
    facts = PUBLISHED[name]
    state = stack_filters(state)
    slots = list(slots_of(detector, name, state))
    unknown = sorted(set(names) - {slot.name for slot in slots})
    if unknown:
        raise UserError(f"{unknown[0]!r} is not a variable of {name}.")
    left = {key: value for key, value in state.items() if not facts.is_unused(key, value)}
    # Hints count only where the published names follow them; else the order decides.
    hints = {slot.hint for slot in slots if slot.hint}
    hints = {hint for hint in hints if any(re.search(hint, key) for key in left)}
    wrong, taken = [], []
    for slot in sorted(slots, key=lambda slot: not (slot.key or slot.name in names)):
        key = names.get(slot.name, slot.key)
        known = bool(key)
        if not known:
            key = next((key for key, value in left.items() if _fits(key, value, slot, hints)), "")
        if key not in left:
            wrong.append(
                f"{key or f'a tensor of the shape {slot.shape} for {slot.name}'} is missing"
            )
            continue
        value = left.pop(key)
        if value.shape != slot.shape:
            wrong.append(f"{key} has the shape {value.shape}")
            continue
        if not np.isfinite(value).all():
            wrong.append(f"{key} has values that are not finite")
            continue
        slot.variable.assign(slot.change(value))
        taken.append((slot.name, key, known))
    wrong += [f"{key} is superfluous" for key in left]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(f"These are not the weights of {name}: {'; '.join(wrong[:5])}{more}.")
    return taken


def _fits(key: str, value: np.ndarray, slot: Slot, hints: set[str]) -> bool:
    if value.shape != slot.shape or not key.endswith(slot.suffix):
        return False
    return {hint for hint in hints if re.search(hint, key)} == {slot.hint} & hints
