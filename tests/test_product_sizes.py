"""Few sizes: each number fits the next one, and an octave has eight."""

from hypothesis import given
from hypothesis import strategies as st

from hf_bert4rec.product_sizes import next_size


@given(st.integers(1, 10**9))
def test_a_size_holds_the_number_and_little_more(number):
    assert number <= next_size(number) <= number * 9 / 8
    assert next_size(next_size(number)) == next_size(number)


def test_an_octave_has_eight_sizes():
    assert sorted({next_size(number) for number in range(65, 129)}) == [72, 80, 88, 96, 104, 112, 120, 128]
    assert [next_size(number) for number in range(17)] == list(range(17))
