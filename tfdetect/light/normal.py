"""Standard normal numbers in NumPy, those that TensorFlow's stateless generator draws on a CPU."""

import numpy as np

_STEP = 4  # numbers that Philox draws at once
_LOW, _WORD = np.uint64(2**32 - 1), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_SEED_KEY = 0x3EC8F720, 0x02461E29  # with which TensorFlow mixes a seed
_SMALLEST = np.float32(1e-7)  # uniform number of which a logarithm is taken
Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def normal(seed: tuple[int, int], first: int, count: int) -> np.ndarray:
    """Return some of the numbers of `tf.random.stateless_normal`, to within rounding.

    Args:
        seed: two integers from 0 to 2^31 - 1.
        first: how many of its numbers to skip.
        count: how many to return.

    Returns:
        float32 [count].
    """
    a, b, c, d = np.array([[seed[0]], [0], [seed[1]], [0]], np.uint64)
    key0, key1, *rest = (int(word[0]) for word in _philox((a, b, c, d), _SEED_KEY))
    step, skipped = divmod(first, _STEP)
    steps = np.arange(step, step - (-(skipped + count) // _STEP), dtype=np.uint64)
    c, d = (np.full(len(steps), word, np.uint64) for word in rest)
    drawn = _philox((steps & _LOW, steps >> _WORD, c, d), (key0, key1))
    found = np.empty((len(steps), _STEP), np.float32)
    for pair in (0, 2):  # Box and Muller
        radius, angle = _uniform(drawn[pair]), _uniform(drawn[pair + 1])
        radius = np.sqrt(np.float32(-2) * np.log(np.maximum(radius, _SMALLEST)))
        angle *= np.float32(2 * np.pi)
        found[:, pair], found[:, pair + 1] = np.sin(angle) * radius, np.cos(angle) * radius
    return found.reshape(-1)[skipped : skipped + count]


def _philox(counter: Words, key: tuple[int, int]) -> Words:
    """Return random words of 32 bits by Philox 4x32-10 (Salmon et al., SC 2011).

    Args:
        counter: four arrays uint64 [n] of words of 32 bits.
        key: two such words.
    """
    a, b, c, d = counter
    for turn in range(10):
        key0, key1 = (
            np.uint64((word + turn * step) % 2**32) for word, step in zip(key, _KEY_STEPS)
        )
        one, other = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (other >> _WORD) ^ b ^ key0,
            other & _LOW,
            (one >> _WORD) ^ d ^ key1,
            one & _LOW,
        )
    return a, b, c, d


def _uniform(words: np.ndarray) -> np.ndarray:
    """Return numbers in [0, 1) from random words, by their 23 lowest bits: float32 [n]."""
    bits = words.astype(np.uint32) & np.uint32(2**23 - 1) | np.uint32(127 << 23)
    return bits.view(np.float32) - np.float32(1)
