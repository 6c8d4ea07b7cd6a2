"""
Random numbers as a function of counters: the same (seed, epoch, row, position) gives the same number on every machine,
in any order and in any process, and no global generator is touched. A whole batch is drawn by one vectorised hash.

*Source:* the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import zlib

import numpy as np


def _mixed(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def uniform(purpose: str, seed: int, *counters: int | np.ndarray) -> np.ndarray:
    r"""
    Uniform numbers in [0, 1), one for each combination of counters.

    Args:
        purpose (`str`): What the numbers are for; different purposes get independent numbers.
        seed (`int`): Seed of the run.
        counters (`int` or integer `np.ndarray`): Epoch, row, position ...; arrays broadcast against each other.

    Returns:
        `np.ndarray` of `float64` in the broadcast shape of the counters.

    Example:
        >>> a = uniform("windows", 0, 3, np.arange(4))
        >>> bool((a == uniform("windows", 0, 3, np.arange(4))).all()), bool((a == uniform("windows", 0, 4, np.arange(4))).any())
        (True, False)
    """
    state = np.asarray(zlib.crc32(purpose.encode()), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is meant
        for counter in (seed, *counters):
            state = _mixed((state ^ np.asarray(counter).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15))
    return (state >> np.uint64(11)) * 2.0**-53
