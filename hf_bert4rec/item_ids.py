"""
Raw item ids as people give them, checked in bulk and turned into text: lists and arrays of text or integers.

*Source:* none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

INTEGER_TEXT = re.compile(r"0|-?[1-9][0-9]*")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")

ItemId = str | int


def is_integer(value: Any) -> bool:
    """Whether it is a whole number, also one of numpy; `True` and `False` are none."""
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def integers_as_text(value: Any) -> Any:
    """The same with every integer as text, however deep in lists and tuples."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(integers_as_text, value))
    return str(value) if is_integer(value) else value


def as_list(values: Any, what: str) -> list[Any]:
    r"""
    Plain Python values, in bulk: `tolist` of numpy, pandas and torch, `to_pylist` of Arrow.

    Raises:
        ValueError: If it is no collection, or one of characters or keys; `what` names it.
    """
    plain = values
    for method in ("to_pylist", "tolist"):
        plain = getattr(plain, method)() if hasattr(plain, method) else plain
    if isinstance(plain, (str, bytes, Mapping)) or not isinstance(plain, Iterable):
        raise ValueError(f"{what} must be a list, found {values!r:.60} ({type(values).__name__}); put it in a list")
    return list(plain)


def answers_met(met: dict[Any, Any], keys: list[Any], types: set[type]) -> list[Any] | None:
    r"""
    What a dictionary holds for all of the keys; `None` where one is new or of another type, as `True` and `1.0` equal 1.

    Example:
        >>> answers_met({1: 4, 2: 5}, [2, 1], {int}), answers_met({1: 4}, [True], {int})
        ([5, 4], None)
    """
    if not set(map(type, keys)) <= types:
        return None
    try:
        return list(map(met.__getitem__, keys))
    except KeyError:
        return None


def texts_of(values: list[Any], what: str) -> list[str]:
    r"""
    Each value as text.

    Raises:
        ValueError: If one is neither text nor an integer, or no valid Unicode; `what` names the list.

    Example:
        >>> texts_of([7, "007"], "a history")
        ['7', '007']
    """
    types = set(map(type, values))
    if types == {int}:  # nothing to check one by one: half of the time
        return list(map(str, values))
    if not all(issubclass(kind, (str, Integral)) and kind is not bool for kind in types):
        place = next(i for i, value in enumerate(values) if not isinstance(value, str) and not is_integer(value))
        found = f"{values[place]!r} ({type(values[place]).__name__}) at position {place}"
        raise ValueError(f"{what} must hold text or integers, found {found}; convert or drop it")
    if types - {str}:
        values = [str.__str__(value) if isinstance(value, str) else str(value) for value in values]
    if LONE_SURROGATE.search("".join(values)):
        found = repr(next(filter(LONE_SURROGATE.search, values)))
        raise ValueError(f"{what} must hold valid Unicode, found {found}; read the text in its own encoding")
    return values


def item_texts(items: Iterable[ItemId]) -> tuple[list[str], str]:
    r"""
    The ids of a catalogue as text, and the type they came in: `"str"` or `"int"`.

    Raises:
        ValueError: If there is none, if one is empty, or if some are text and some integers.
    """
    raw_ids = as_list(items, "items")
    texts = texts_of(raw_ids, "items")
    if not texts:
        raise ValueError("items must hold at least one id, found none; check what filled the list")
    are_texts = [isinstance(raw_id, str) for raw_id in raw_ids]
    if any(are_texts) and not all(are_texts):
        place = are_texts.index(not are_texts[0])
        found = f"{raw_ids[0]!r} at position 0 and {raw_ids[place]!r} at position {place}"
        raise ValueError(f"items must be all text or all integers, found {found}; convert them to one type")
    if "" in texts:
        raise ValueError(f"an item id must not be empty, found '' at position {texts.index('')}; drop it or name it")
    return texts, "str" if are_texts[0] else "int"
