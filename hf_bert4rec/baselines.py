"""
What a model has to beat: popularity, and counts of what followed the last item.

Both are scorers as `ranking.Scorer` describes them, fitted on the training part as flat tokens with offsets. Memory is
proportional to the number of events, never to the square of the catalogue.

*Source:* POP in Sun et al., "BERT4Rec" (CIKM 2019), section 4.3; last-item counts are the first-order Markov chain of
Rendle et al., "Factorizing Personalized Markov Chains" (WWW 2010), section 4.1, without the factorisation.

*Differences:* where a transition was counted equally often, or never, the more popular item comes first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .ranking import ScoreItems

# Pairs are counted in blocks: a sort of all would take ten times the memory of the events.
EVENTS_AT_ONCE = 1 << 20


class Popularity:
    r"""
    Scores every item by its number of training events, whoever asks.

    Args:
        events (`np.ndarray` of shape `(num_events,)`): Item tokens of the training part, all users.
        vocab_size (`int`): Number of tokens, special tokens included.

    Raises:
        ValueError: If a token is not between 0 and `vocab_size - 1`.

    Example:
        >>> popularity = Popularity(np.array([3, 4, 4]), vocab_size=6)
        >>> popularity(None, [np.array([3])])(3, 6)
        tensor([[1., 2., 0.]])
    """

    def __init__(self, events: np.ndarray, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.counts = torch.from_numpy(count_items(events, vocab_size)).float()

    def __call__(self, user_ids: list[Any] | None, histories: list[np.ndarray]) -> ScoreItems:
        r"""
        See `ranking.Scorer`; only the number of histories matters.
        """
        return lambda start, stop: self.counts[start:stop].expand(len(histories), -1)


class Markov:
    r"""
    Scores an item by how often it directly followed the history's last item in training; popularity breaks ties.

    The score is a whole number, the count, plus a popularity between 0 and 1: the item's place among the distinct
    numbers of events, from the bottom. (The share of events would vanish beside a large count in float32.) Empty
    histories, and those whose last item was never followed by another, get popularity alone.

    Args:
        events (`np.ndarray` of shape `(num_events,)`): Item tokens of the training part, users one after another, each
            oldest first.
        offsets (`np.ndarray` of shape `(num_users + 1,)`): Where each user's events start, and where the last one's
            end.
        vocab_size (`int`): Number of tokens, special tokens included.

    Raises:
        ValueError: If a token is not between 0 and `vocab_size - 1`, or if the offsets do not cover the events.

    Example:
        >>> markov = Markov(np.array([3, 4, 5, 3, 4]), np.array([0, 3, 5]), vocab_size=6)
        >>> markov(None, [np.array([5, 3])])(3, 6)  # 4 followed 3 twice; 3 and 4 have two events each, 5 has one
        tensor([[0.6667, 2.6667, 0.3333]])
    """

    def __init__(self, events: np.ndarray, offsets: np.ndarray, vocab_size: int) -> None:
        events, offsets = np.asarray(events), np.asarray(offsets)
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(events) or (np.diff(offsets) < 0).any():
            raise ValueError(f"Offsets do not cover the {len(events)} events: they must rise from 0 to that number.")
        self.vocab_size = vocab_size
        distinct, places = np.unique(count_items(events, vocab_size), return_inverse=True)
        places = places + (distinct[0] > 0)  # place 0 is that of no events at all
        self.popularity = torch.from_numpy(places / (places.max() + 1)).float()
        keys, counts = _count_transitions(events, offsets, vocab_size)
        self.starts = np.searchsorted(keys, np.arange(vocab_size + 1) * vocab_size)  # (vocab_size + 1,)
        self.next_items = keys % vocab_size  # (num_transitions,)
        self.counts = counts.astype(np.float32)  # (num_transitions,)

    def __call__(self, user_ids: list[Any] | None, histories: list[np.ndarray]) -> ScoreItems:
        r"""
        See `ranking.Scorer`; only the last item of each history matters.
        """
        known = np.array([row for row, history in enumerate(histories) if len(history)], dtype=np.int64)
        last = np.array([histories[row][-1] for row in known], dtype=np.int64)
        lengths = self.starts[last + 1] - self.starts[last]
        ends = np.cumsum(lengths)
        places = np.arange(lengths.sum()) + np.repeat(self.starts[last] - ends + lengths, lengths)
        rows = torch.from_numpy(np.repeat(known, lengths))
        items, counts = torch.from_numpy(self.next_items[places]), torch.from_numpy(self.counts[places])

        def score_items(start: int, stop: int) -> torch.Tensor:
            inside = (items >= start) & (items < stop)
            scores = self.popularity[start:stop].repeat(len(histories), 1)  # (batch_size, stop - start)
            return scores.index_put_((rows[inside], items[inside] - start), counts[inside], accumulate=True)

        return score_items


def count_items(events: np.ndarray, vocab_size: int) -> np.ndarray:
    r"""
    Number of events of each token, counted in flat memory.

    Args:
        events (integer `np.ndarray` of shape `(num_events,)`): Item tokens.
        vocab_size (`int`): Number of tokens, special tokens included.

    Returns:
        `np.ndarray` of shape `(vocab_size,)`, int64.

    Raises:
        ValueError: If a token is not between 0 and `vocab_size - 1`.

    Example:
        >>> count_items(np.array([3, 4, 4]), vocab_size=6)
        array([0, 0, 0, 1, 2, 0])
    """
    events = np.asarray(events)
    if len(events) and not 0 <= events.min() <= events.max() < vocab_size:
        found = events.min() if events.min() < 0 else events.max()
        raise ValueError(f"Token {found} is outside the vocabulary: give tokens between 0 and {vocab_size - 1}.")
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(events), EVENTS_AT_ONCE):
        counts += np.bincount(events[start : start + EVENTS_AT_ONCE], minlength=vocab_size)
    return counts


def _count_transitions(events: np.ndarray, offsets: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (item, next item) of all histories as sorted keys `item * vocab_size + next item`, and their counts."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    borders = offsets[1:-1]
    for start in range(0, max(len(events) - 1, 0), EVENTS_AT_ONCE):
        items = events[start : start + EVENTS_AT_ONCE + 1].astype(np.int64)
        inside = np.ones(len(items) - 1, dtype=bool)
        first, last = np.searchsorted(borders, [start + 1, start + len(items)])
        inside[borders[first:last] - 1 - start] = False
        parts.append(np.unique((items[:-1] * vocab_size + items[1:])[inside], return_counts=True))
        # Only parts of like size are merged, so that a pair is copied a few times and not once for each block.
        while len(parts) > 1 and len(parts[-2][0]) <= 2 * len(parts[-1][0]):
            parts[-2:] = [_merged(parts[-2:])]
    return _merged(parts)


def _merged(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in parts)])
    counts = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in parts)])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.add.reduceat(counts[order], starts) if len(starts) else counts
