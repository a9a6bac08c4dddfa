"""Random numbers that are a function of what they are for: a seed, a purpose and a number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Streams of random numbers that never meet: one a purpose.
EPOCH, WINDOW, MIXTURE, PART, MASK = 1, 2, 3, 4, 5


def draw(seed: int, purpose: int, number: int, count: int, stream: int = 0) -> npt.NDArray[np.uint64]:
    """``count`` random 64-bit numbers that hang on the arguments alone, (count,); a smaller count is a beginning.

    ``number`` is below 2 ** 56, ``stream`` below 2 ** 64. Philox is counter-based, and numpy promises its raw
    output for ever (NEP 19), which it does not for ``permutation`` and its like.
    """
    key = np.array([seed % 2**64, (purpose << 56) | number], dtype=np.uint64)
    counter = np.array([0, stream, 0, 0], dtype=np.uint64)
    raw: npt.NDArray[np.uint64] = np.random.Philox(key=key, counter=counter).random_raw(count)
    return raw
