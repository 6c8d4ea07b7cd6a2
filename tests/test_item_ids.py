"""Ids as people give them become text: whole numbers and text of any kind, and nothing else."""

import numpy as np
import pandas as pd
import pytest
import torch

from hf_bert4rec import Bert4RecTokenizer
from hf_bert4rec.item_ids import as_list, integers_as_text, is_integer, item_texts, texts_of


class Text(str):
    """Text of another type, as databases and parsers give it."""

    def __str__(self):
        return "not this"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([7, -3, 0, 10**30], ["7", "-3", "0", str(10**30)]),
        (["007", " a b", "[MASK]", "\U0001f600"], ["007", " a b", "[MASK]", "\U0001f600"]),
        ([7, "7", np.int64(9)], ["7", "7", "9"]),
        ([np.int64(9), np.uint8(3)], ["9", "3"]),
        ([Text("a")], ["a"]),
    ],
)
def test_text_stays_and_integers_become_text(values, expected):
    found = texts_of(values, "ids")
    assert found == expected
    assert {type(text) for text in found} <= {str}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, True], r"ids must hold text or integers, found True \(bool\) at position 1; convert or drop it"),
        ([1.0], r"ids must hold text or integers, found 1.0 \(float\) at position 0"),
        (["a", None], r"found None \(NoneType\) at position 1"),
        (["a", "b\ud800"], r"ids must hold valid Unicode, found 'b\\ud800'"),
    ],
)
def test_what_is_no_id_is_named_with_its_place(values, message):
    with pytest.raises(ValueError, match=message):
        texts_of(values, "ids")


@pytest.mark.parametrize("values", [np.array([3, 4]), pd.Series([3, 4]), torch.tensor([3, 4]), (3, 4), iter([3, 4])])
def test_any_collection_becomes_a_list_of_plain_values(values):
    found = as_list(values, "ids")
    assert found == [3, 4]
    assert {type(value) for value in found} == {int}


@pytest.mark.parametrize("values", ["34", b"34", {3: 4}, 34, None])
def test_what_is_no_collection_is_refused(values):
    with pytest.raises(ValueError, match=r"ids must be a list, found .*; put it in a list"):
        as_list(values, "ids")


def test_integers_are_told_from_what_only_acts_like_them():
    assert [is_integer(value) for value in (3, np.int32(3), True, 3.0, "3", None)] == [True, True] + [False] * 4
    assert integers_as_text([3, "a", (np.int64(4), [True])]) == ["3", "a", ("4", [True])]


def test_a_catalogue_is_all_text_or_all_integers():
    assert item_texts([3, np.int64(4)]) == (["3", "4"], "int")
    assert item_texts(["3", "a"]) == (["3", "a"], "str")
    with pytest.raises(ValueError, match="all text or all integers, found 3 at position 0 and 'a' at position 1"):
        item_texts([3, "a"])
    with pytest.raises(ValueError, match="an item id must not be empty, found '' at position 1"):
        item_texts(["a", ""])
    with pytest.raises(ValueError, match="items must hold at least one id"):
        item_texts([])


def test_what_was_asked_before_is_answered_alike_and_only_for_the_same_type():
    tokenizer = Bert4RecTokenizer.from_items([1, 2])
    for _ in range(2):
        assert tokenizer.encode_items([2, "1", 2]) == ([4, 3, 4], [])
        assert tokenizer.encode_items([2, 9]) == ([4], [9])
        assert tokenizer.decode_items([4, 3]) == [2, 1]
        with pytest.raises(ValueError, match=r"found True \(bool\) at position 1"):
            tokenizer.encode_items([2, True])
        with pytest.raises(ValueError, match=r"found 1\.0 \(float\) at position 0"):
            tokenizer.encode_items([1.0])
        with pytest.raises(ValueError, match=r"tokens of items, found 4\.0"):
            tokenizer.decode_items([4.0])
    tokenizer.add_tokens(["9"])
    assert tokenizer.encode_items([2, 9]) == ([4, 5], [])
