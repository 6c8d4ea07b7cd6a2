"""
Whether an exported model gives what the model gives: its scores and its lists.

*Source:* none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .item_index import ItemIndex
from .ranking import Scorer, top_k_items
from .scoring import ModelScorer

TOLERANCE = 1e-4
TOP_K = 10
HISTORIES_AT_ONCE = 64


def check_scores(scorer: Scorer, reference: Scorer, histories: list[np.ndarray]) -> dict[str, float]:
    r"""
    Hold the scores of every item, and the ten best that were not seen, against those of the original.

    Args:
        scorer ([`ranking.Scorer`]): What was exported.
        reference ([`ranking.Scorer`]): The original.
        histories (list of `np.ndarray`): Tokens of each history.

    Returns:
        `dict`: `max_score_difference`.

    Raises:
        ValueError: If a score differs by more than 1e-4, or a list other than by items whose scores are that close.
    """
    largest = 0.0
    for start, batch in _batches(histories):
        expected, found = _all_scores(reference, batch), _all_scores(scorer, batch)
        differences = (found - expected).abs().amax(1)
        for row, difference in enumerate(differences.tolist()):
            if not difference <= TOLERANCE:  # NaN is not
                raise ValueError(
                    f"The exported graph gives other scores than the model: by up to {difference:.2g} for history {start + row}, "
                    f"{TOLERANCE:g} is allowed. No folder is written; export with the versions of constraints.txt."
                )
        _check_lists(expected, _best(expected, batch), _best(found, batch), start, "graph")
        largest = max(largest, differences.max().item())
    return {"max_score_difference": largest}


def check_index(
    index: ItemIndex, reference: ModelScorer, histories: list[np.ndarray], *, is_exact: bool
) -> dict[str, float]:
    r"""
    Hold the lists of an index against those of the original.

    Args:
        index ([`ItemIndex`]): The items.
        reference ([`ModelScorer`]): The original.
        histories (list of `np.ndarray`): Tokens of each history.
        is_exact (`bool`): Whether the index must find the ten best items.

    Returns:
        `dict`: `index_recall_at_10`, the share of the ten best items that are in the index' lists.

    Raises:
        ValueError: If an exact index gives other lists, but for items whose scores are within 1e-4.
    """
    shares = []
    for start, batch in _batches(histories):
        expected = _all_scores(reference, batch)
        best = _best(expected, batch)
        found, _ = index.top_k(reference.user_vectors(batch), best.shape[1], seen=batch)
        if is_exact:
            _check_lists(expected, best, found, start, "index")
        shares += _shares(best, found)
    return {"index_recall_at_10": float(np.mean(shares))}


def overlap(scorer: Scorer, reference: Scorer, histories: list[np.ndarray]) -> float:
    """The mean share of the original's ten best items that are among those of the export."""
    shares = []
    for _, batch in _batches(histories):
        lists = [_best(_all_scores(each, batch), batch) for each in (reference, scorer)]
        shares += _shares(*lists)
    return float(np.mean(shares))


def _batches(histories: list[np.ndarray]) -> Iterator[tuple[int, list[np.ndarray]]]:
    for start in range(0, len(histories), HISTORIES_AT_ONCE):
        yield start, histories[start : start + HISTORIES_AT_ONCE]


def _all_scores(scorer: Scorer, histories: list[np.ndarray]) -> torch.Tensor:
    return scorer(None, histories)(0, scorer.vocab_size)


def _best(scores: torch.Tensor, histories: list[np.ndarray]) -> torch.Tensor:
    """Tokens of the best items that were not seen, `(batch, 10)`; -1 where there are fewer."""
    vocab_size = scores.shape[1]
    k = min(TOP_K, vocab_size - FIRST_ITEM_TOKEN)
    options: dict[str, Any] = {"vocab_size": vocab_size, "seen": histories, "first_item": FIRST_ITEM_TOKEN}
    return top_k_items(lambda start, stop: scores[:, start:stop], k, **options)[0]


def _check_lists(expected: torch.Tensor, best: torch.Tensor, found: torch.Tensor, first: int, what: str):
    """Where two lists name different items at a place, the original must score the two alike."""
    for row, place in (best != found).nonzero().tolist():
        pair = [int(tokens[row, place]) for tokens in (best, found)]
        gap = abs(float(expected[row, pair[0]] - expected[row, pair[1]])) if min(pair) >= 0 else float("inf")
        if not gap < TOLERANCE:
            raise ValueError(
                f"The exported {what} ranks otherwise than the model: place {place + 1} for history {first + row} is token "
                f"{pair[1]}, not {pair[0]}, {gap:.2g} apart. No folder is written; export with the versions of constraints.txt."
            )


def _shares(best: torch.Tensor, found: torch.Tensor) -> list[float]:
    """Per row, the share of the best items that were found."""
    is_item = best >= 0
    hits = ((best[:, :, None] == found[:, None]).any(2) & is_item).sum(1)
    return (hits / is_item.sum(1).clamp(min=1))[is_item.any(1)].tolist()
