"""Items are found by any words of their title or id, the most popular first, and no more than are asked for."""

import pytest

from hf_bert4rec import Bert4RecTokenizer
from hf_bert4rec.item_search import ItemSearch

TITLES = {"a1": "The Matrix (1999)", "a2": "Amélie (2001)", "a3": "Matrix Reloaded, The (2003)", "1999": "Straße 7"}


@pytest.fixture(scope="module")
def search():
    return ItemSearch(Bert4RecTokenizer.from_items(["a1", "a2", "a3", "1999", "matrix"], titles=TITLES))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("matrix", [7, 3, 5]),  # the id first, then by popularity; the item with that id is not listed twice
        ("MATRIX the", [3, 5]),
        ("reloaded mat", [5]),
        ("amelie", [4]),
        ("AMÉLIE", [4]),
        ("strasse", [6]),
        ("1999", [6, 3]),
        ("  1999 ", [6, 3]),
        ("1999 matrix", [3]),
        ("a", [3, 4, 5, 6, 7]),
        ("matrix amelie", []),
        ("[MASK]", []),
        ("", []),
        ("   ", []),
    ],
)
def test_every_word_must_be_held_by_title_or_id(search, text, tokens):
    assert search(text, 9) == tokens


def test_no_more_are_found_than_asked_for(search):
    assert search("a", 2) == [3, 4]
    assert search("matrix", 1) == [7]


def test_without_titles_ids_are_searched():
    search = ItemSearch(Bert4RecTokenizer.from_items([17, 7, 71]))
    assert search("7", 9) == [4, 3, 5]
    assert search("71", 9) == [5]


def test_the_search_ends_as_soon_as_enough_are_found(search, monkeypatch):
    looked_at = []

    class Text(str):
        def __contains__(self, word):
            looked_at.append(word)
            return str.__contains__(self, word)

    monkeypatch.setattr(search, "texts", [Text(text) for text in search.texts])
    assert search("e", 2) == [3, 4]
    assert len(looked_at) == 2
