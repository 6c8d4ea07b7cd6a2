"""Numbers from counters: the same everywhere, uniform, independent of order and of every global generator."""

import random
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_bert4rec.randomness import uniform

WORD = 2**64


def naive_uniform(purpose, seed, *counters):
    """One number, in Python's whole numbers of any size."""
    state = zlib.crc32(purpose.encode())
    for counter in (seed, *counters):
        state = ((state ^ (counter % WORD)) + 0x9E3779B97F4A7C15) % WORD
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % WORD
        state = state ^ (state >> 31)
    return (state >> 11) / 2**53


def chi_square(numbers, num_bins):
    """Standardised: 0 on average, of variance 1, where the numbers are uniform."""
    counts = np.bincount((numbers * num_bins).astype(int), minlength=num_bins)
    expected = len(numbers) / num_bins
    return (((counts - expected) ** 2 / expected).sum() - (num_bins - 1)) / np.sqrt(2 * (num_bins - 1))


@given(st.text(max_size=9), st.integers(0, 2**63), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3))
def test_numbers_equal_a_naive_loop_in_whole_numbers(purpose, seed, counters):
    assert float(uniform(purpose, seed, *counters)) == naive_uniform(purpose, seed, *counters)


def test_numbers_are_the_same_on_every_machine():
    expected = [0.5786708780173763, 0.10740987943096714, 0.974148431623866, 0.3261641293787748]
    assert uniform("window", 0, 3, np.arange(4)).tolist() == expected


def test_counters_broadcast_against_each_other():
    rows, positions = np.array([4, 0, 7]), np.arange(5)
    numbers = uniform("cloze", 1, 2, rows[:, None], positions)
    assert numbers.shape == (3, 5)
    assert numbers.dtype == np.float64
    expected = [[naive_uniform("cloze", 1, 2, row, position) for position in range(5)] for row in rows.tolist()]
    assert numbers.tolist() == expected


def test_numbers_do_not_depend_on_the_order_of_evaluation():
    rows = np.random.default_rng(0).permutation(100)
    numbers = uniform("order", 0, 3, rows)
    assert (numbers[np.argsort(rows)] == uniform("order", 0, 3, np.arange(100))).all()
    assert numbers[50] == uniform("order", 0, 3, rows[50:51])[0]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
def test_the_type_of_a_counter_does_not_matter(dtype):
    assert (uniform("order", 0, np.arange(9, dtype=dtype)) == uniform("order", 0, np.arange(9))).all()


@pytest.mark.parametrize(
    "numbers",
    [
        uniform("cloze", 0, 0, np.arange(100_000)),
        uniform("cloze", 0, np.arange(100_000), 0),
        uniform("cloze", np.int64(7), 3, np.arange(1000)[:, None], np.arange(100)).reshape(-1),
        np.array([uniform("cloze", seed, 0)[()] for seed in range(20_000)]),
    ],
    ids=["positions", "rows", "grid", "seeds"],
)
def test_numbers_are_uniform_and_neighbours_independent(numbers):
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(chi_square(numbers, 100)) < 4
    pairs = np.floor(numbers[1:] * 10) / 10 + np.floor(numbers[:-1] * 10) / 100
    assert abs(chi_square(pairs + 0.005, 100)) < 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("cloze", 0, 0), ("last item", 0, 0)),
        (("cloze", 0, 0), ("cloze", 1, 0)),
        (("cloze", 0, 0), ("cloze", 0, 1)),
        (("cloze", 0, 1), ("cloze", 1, 0)),
        (("cloze", 3, 0), ("last item", 3, 0)),
    ],
)
def test_purposes_seeds_and_epochs_give_independent_numbers(one, other):
    num_rows = 20_000
    first, second = uniform(*one, np.arange(num_rows)), uniform(*other, np.arange(num_rows))
    assert (first != second).all()
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(num_rows)


def test_no_global_generator_is_touched():
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    first = uniform("cloze", 0, np.arange(10))
    random.random(), np.random.random(), torch.rand(1)
    assert (uniform("cloze", 0, np.arange(10)) == first).all()
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
    uniform("cloze", 1, np.arange(10))
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1][1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])
