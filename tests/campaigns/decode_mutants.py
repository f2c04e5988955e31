"""Decodes mutants of the zoo through every path; run by test_mutants.py in processes of its own.

Usage: python decode_mutants.py FIRST COUNT. It prints one JSON line for each mutant, and last one
with the largest memory of the process in bytes.
"""

import json
import os
import random
import resource
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import tensorflow as tf
from zoo import FILES, make

from tfdetect.auditing.traits import image_traits
from tfdetect.data.inspection import inspect_bytes
from tfdetect.imaging.decode_in_graph import decode_in_graph
from tfdetect.imaging.formats import ImageError
from tfdetect.imaging.headers import read_header
from tfdetect.imaging.pillow import read_rgb
from tfdetect.imaging.read import decode_any, decoding_error

SIGNATURE = [tf.TensorSpec([], tf.string)]
GRAPH = tf.function(decode_in_graph, input_signature=SIGNATURE)
READER = tf.function(decode_any, input_signature=SIGNATURE)
CACHE: dict[str, bytes] = {}


def original(name: str) -> bytes:
    if name not in CACHE:
        CACHE[name] = make(name)
    return CACHE[name]


def mutant(number: int) -> tuple[str, str, bytes]:
    """Return the name of the original, the kind of change, and the bytes."""
    rng = random.Random(number)
    names = [name for name in FILES if name != "empty"]
    name = names[number % len(names)]
    data = bytearray(original(name))
    kind = rng.choice(["flip", "head", "extreme", "cut", "append", "zeros", "splice", "repeat"])
    place = rng.randrange(len(data))
    if kind == "flip":
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "head":
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(min(64, len(data)))] = rng.randrange(256)
    elif kind == "extreme":  # what may be a size or a length
        place = rng.randrange(min(200, len(data)))
        value = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff", b"\x7f\xff\xff\xff"])
        data[place : place + len(value)] = value
    elif kind == "cut":
        del data[place:]
    elif kind == "append":
        data += rng.randbytes(rng.randint(1, 5_000))
    elif kind == "zeros":
        length = rng.randint(1, 100)
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == "splice":
        data[place:] = original(rng.choice(names))[place:]
    else:
        data[place:place] = data[place : place + rng.randint(1, 200)]
    return name, kind, bytes(data)


def outcome(read):
    """Return the pixels, or None where the file is refused."""
    try:
        return np.asarray(read()).astype(np.int16)
    except (ImageError, tf.errors.OpError):
        return None


def judge(number: int) -> dict:
    name, kind, data = mutant(number)
    error = inspect_bytes(data, 10**8)[-1]
    pillow = outcome(lambda: read_rgb(data))
    reader = outcome(lambda: READER(tf.constant(data)))
    graph = outcome(lambda: GRAPH(tf.constant(data)))
    try:
        image_traits(data)
        traits = True
    except Exception:  # Pillow's plugins raise many kinds, which the audit catches
        traits = False
    assert (error is None) == (pillow is not None)
    assert pillow is None or traits
    reason = decoding_error(data)
    assert (reason is None) == (pillow is not None and reader is not None), reason
    assert reason is None or reason.strip()
    both = pillow is not None and reader is not None
    same_shape = both and pillow.shape == reader.shape
    try:
        container = read_header(data).container
    except ImageError:
        container = ""
    return {
        "number": number, "name": name, "kind": kind, "container": container,
        "pillow": pillow is not None, "reader": reader is not None, "graph": graph is not None,
        "difference": int(np.abs(pillow - reader).max()) if same_shape else None,
        "graph_is_reader": graph is None or (reader is not None and np.array_equal(graph, reader)),
    }  # fmt: skip


def main() -> None:
    first, count = map(int, sys.argv[1:])
    for number in range(first, first + count):
        print(json.dumps({"begins": number}), flush=True)
        print(json.dumps(judge(number)), flush=True)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak": peak}), flush=True)


if __name__ == "__main__":
    main()
