"""
From scores to ranks and to the best k items: the one place that forbids an item or breaks a tie, whoever made the
scores.

A scorer reads a batch of histories once and then scores any slice of the catalogue. The functions here fold such
slices, so that a (users x million items) matrix never exists, and give the same ranks and lists whatever the size of
the slices.

*Source:* ranks and ties follow Sun et al., "BERT4Rec" (CIKM 2019), section 4.2, over the whole catalogue instead of
100 negatives.

*Differences:* an item that ties with the target counts as half an item above it, so that a constant scorer lands in
the middle and never on top. In lists, of two items with the same score the one with the lower token comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from .token_pairs import ForbiddenTokens, TokenLists, as_pairs, pair_keys, within

ScoreItems = Callable[[int, int], torch.Tensor]
Slices = list[tuple[int, int]]

DEFAULT_SLICE_SIZE = 131_072
# Lists are found in one sweep: slices whose scores stay in the cache (4 MiB for 256 users) take two thirds of the time.
TOP_K_SLICE_SIZE = 4096
_GROUP_SIZE = 64  # scores that are left out together where the highest of them is too low
_ELEMENTS_AT_ONCE = 1_000_000
_NAN_MESSAGE = (
    "A score is NaN, so nothing can be ranked: look for a diverged training or a division by zero in the scorer."
)


class Scorer(Protocol):
    r"""
    What every model and every baseline looks like to ranking: histories in, a function that scores slices of the
    catalogue out.

    Attributes:
        vocab_size (`int`): Number of tokens, special tokens included. Scores exist for tokens `0 .. vocab_size - 1`.

    Example:
        >>> class Newest:
        ...     vocab_size = 6
        ...
        ...     def __call__(self, user_ids, histories):
        ...         return lambda start, stop: torch.arange(start, stop).float().expand(len(histories), -1)
        >>> score_items = Newest()(None, [np.array([4, 5])])
        >>> score_items(3, 6)
        tensor([[3., 4., 5.]])
    """

    vocab_size: int

    def __call__(self, user_ids: list[Any] | None, histories: list[np.ndarray]) -> ScoreItems:
        r"""
        Read a batch of histories.

        Args:
            user_ids (`list`, *optional*): Whose histories they are, for scorers that know users; others ignore it.
            histories (`list[np.ndarray]`): Item tokens, oldest first, as 1-D int64 arrays, possibly empty.

        Returns:
            `Callable`: `score_items(start, stop)`, the scores of tokens `start .. stop - 1` as a float32 tensor of
            shape `(batch_size, stop - start)`. Higher is better. The tensor is only read.
        """
        ...


@torch.no_grad()
def target_ranks(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    r"""
    Rank of the target among all candidates, counted from 0; an item that ties with it counts as half an item above.

    Args:
        scores (`torch.Tensor` of shape `(batch_size, vocab_size)`): Higher is better; forbidden items are `-inf`.
        targets (`torch.LongTensor` of shape `(batch_size,)`): Token id of the item that came next.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: ranks in float32, possibly halves, exact for up to 8 million items.

    Raises:
        ValueError: If a target is itself forbidden and so has no rank, or if a score is NaN.

    Example:
        >>> target_ranks(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]))
        tensor([1.])
    """
    targets = _checked_targets(targets, 0, scores.shape[-1]).to(scores.device)
    scores = _checked_scores(scores, (len(targets), scores.shape[-1]))
    target_scores = scores.gather(1, targets[:, None])  # (batch_size, 1)
    forbidden = torch.isneginf(target_scores[:, 0]).nonzero()[:, 0]
    if len(forbidden):
        row = int(forbidden[0])
        raise ValueError(
            f"The target of row {row}, token {int(targets[row])}, is forbidden (it scores -inf) and so has no rank: "
            "leave it out of the forbidden items."
        )
    return (_twice_above(scores, target_scores) - 1).float() / 2


@torch.no_grad()
def rank_targets(
    score_items: ScoreItems,
    targets: torch.Tensor,
    *,
    vocab_size: int,
    seen: Sequence[Any] | None = None,
    candidates: Sequence[Any] | None = None,
    first_item: int = 3,
    slice_size: int = DEFAULT_SLICE_SIZE,
) -> torch.Tensor:
    r"""
    Rank of each target among the items that may be recommended, counted from 0, a tie being half an item above.

    Where the catalogue is larger than a slice, a first sweep finds the targets' scores and a second one counts who is
    above. Both ask for the same slices, so that a target is compared with the very numbers it was read from. Memory is
    `batch_size * slice_size` scores.

    Args:
        score_items (`Callable`): What a [`Scorer`] returned for this batch.
        targets (`torch.LongTensor` of shape `(batch_size,)`): Tokens of the items that came next.
        vocab_size (`int`): Number of tokens, special tokens included.
        seen (sequence of 1-D token arrays, *optional*): Per row, tokens that are forbidden, except the target itself.
        candidates (sequence of 1-D token arrays, *optional*): Per row, the only items that compete with the target.
        first_item (`int`, *optional*, defaults to 3): Tokens below it are special and never candidates.
        slice_size (`int`, *optional*, defaults to 131072): Items scored at once.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: ranks in float32, possibly halves, exact for up to 8 million items.

    Raises:
        ValueError: If a target or candidate is no item, a list is missing, a token is out of range, or a score is NaN.

    Example:
        >>> scores = torch.tensor([[0.0, 0.0, 0.0, 0.9, 0.1, 0.5]])
        >>> score_items = lambda start, stop: scores[:, start:stop]
        >>> rank_targets(score_items, torch.tensor([4]), vocab_size=6)
        tensor([2.])
        >>> rank_targets(score_items, torch.tensor([4]), vocab_size=6, seen=[np.array([3])])
        tensor([1.])
    """
    targets = _checked_targets(targets, first_item, vocab_size)
    slices = _slices(first_item, vocab_size, slice_size)
    if not len(targets):
        return torch.empty(0)
    own, read = targets.numpy(), _Reader(score_items, len(targets))
    keys = np.unique(pair_keys(seen, len(own), "seen", (0, vocab_size)))  # each is counted once
    keys = keys[keys % vocab_size != own[keys // vocab_size]]
    if candidates is None:
        pairs = as_pairs(keys[keys % vocab_size >= first_item], vocab_size)
        return _rank_among_all(read, targets, pairs, slices)
    rivals = np.setdiff1d(pair_keys(candidates, len(own), "candidates", (first_item, vocab_size)), keys)
    rivals = rivals[rivals % vocab_size != own[rivals // vocab_size]]
    return _rank_among(read, targets, as_pairs(rivals, vocab_size), slices)


@torch.no_grad()
def top_k_items(
    score_items: ScoreItems,
    k: int,
    *,
    vocab_size: int,
    seen: Sequence[Any] | None = None,
    allowed: TokenLists | None = None,
    denied: TokenLists | None = None,
    first_item: int = 3,
    slice_size: int = TOP_K_SLICE_SIZE,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    The k best items of each row, best first; of equal scores the lower token comes first, whatever the slice size.

    Args:
        score_items (`Callable`): What a [`Scorer`] returned for this batch. An item that it scores `-inf` is never
            listed.
        k (`int`): Length of the lists.
        vocab_size (`int`): Number of tokens, special tokens included.
        seen (sequence of 1-D token arrays, *optional*): Per row, tokens that are forbidden.
        allowed (1-D token array, or a sequence of them, *optional*):
            The only tokens that may be listed, for all rows or per row.
        denied (1-D token array, or a sequence of them, *optional*): Tokens that may not be listed, for all rows or per row.
        first_item (`int`, *optional*, defaults to 3): Tokens below it are special and never listed.
        slice_size (`int`, *optional*, defaults to 4096): Items scored at once.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: tokens (int64) and scores (float32), both of shape `(batch_size, k)`.
        Where fewer than k items are left, the tail is token -1 with score `-inf`.

    Raises:
        ValueError: If k is not between 1 and the number of items, a list is missing, a token is out of range, or a
        score is NaN.

    Example:
        >>> scores = torch.tensor([[9.0, 9.0, 9.0, 0.5, 0.1, 0.5]])
        >>> tokens, _ = top_k_items(lambda start, stop: scores[:, start:stop], 3, vocab_size=6, denied=[4])
        >>> tokens
        tensor([[ 3,  5, -1]])
    """
    if not 1 <= k <= vocab_size - first_item:
        num_items = vocab_size - first_item
        raise ValueError(f"k is {k}, but the catalogue has {num_items} items: choose k between 1 and that number.")
    forbidden = None
    for start, stop in _slices(first_item, vocab_size, slice_size):
        scores = score_items(start, stop)
        if forbidden is None:
            forbidden = ForbiddenTokens((len(scores), vocab_size, first_item), seen, allowed, denied)
            best = scores.new_full((len(scores), k), -torch.inf, dtype=torch.float32)
            best_tokens = scores.new_full((len(scores), k), -1, dtype=torch.int64)
        scores = _checked_scores(scores, (len(best), stop - start), allow_nan=True)
        are_full = not torch.isneginf(best[:, -1]).any()
        scores = forbidden.of_slice_for_all(scores, start) if are_full else forbidden.of_slice(scores, start)
        rivals, tokens = _above_the_last(scores, best[:, -1:], start)
        if are_full:
            # Little is above the last of a full list: what has been seen leaves it sooner than a copy of the slice.
            rivals = forbidden.of_some(rivals, tokens, start, stop)
        best, order = _ordered_top_k(torch.cat([best, rivals], 1), k)
        best_tokens = torch.cat([best_tokens, tokens], 1).gather(1, order)  # (batch_size, k)
    return best_tokens.masked_fill(torch.isneginf(best), -1), best


def _above_the_last(scores: torch.Tensor, last: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Scores above the last that is listed, `(batch_size, most of any row)`, and their tokens, in order, `-inf` behind them.

    A slice rarely holds many, so groups of columns whose highest score is too low are not looked at one by one.
    """
    num_rows, num_columns = scores.shape
    if torch.isneginf(last).all():
        return scores, torch.arange(start, start + num_columns, device=scores.device).expand(num_rows, -1)
    if num_columns % _GROUP_SIZE:
        scores = torch.nn.functional.pad(scores, (0, -num_columns % _GROUP_SIZE), value=-torch.inf)
    groups = scores.unflatten(1, (-1, _GROUP_SIZE))
    # A NaN is not at most the last: it is found, and is an error unless it is forbidden.
    rows, places = (~(groups.amax(2) <= last)).nonzero(as_tuple=True)
    groups = groups[rows, places]  # (groups that hold any, group_size)
    found, offsets = (~(groups <= last[rows])).nonzero(as_tuple=True)
    rows, found_tokens = rows[found], places[found] * _GROUP_SIZE + offsets + start
    counts = torch.bincount(rows, minlength=num_rows)
    slots = torch.arange(len(rows), device=scores.device) - (counts.cumsum(0) - counts)[rows]
    shape = num_rows, int(counts.max())
    rivals, tokens = scores.new_full(shape, -torch.inf), found_tokens.new_full(shape, start)
    rivals[rows, slots], tokens[rows, slots] = groups[found, offsets], found_tokens
    return rivals, tokens


class _Reader:
    """Reads slices of scores, checks them and keeps the last one: a catalogue of one slice is scored once."""

    def __init__(self, score_items: ScoreItems, num_rows: int) -> None:
        self.score_items, self.num_rows = score_items, num_rows
        self.slice: tuple[int, int] | None = None

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        if self.slice != (start, stop):
            self.slice, self.scores = (start, stop), torch.empty(0)  # lets go of one slice before the next is made
            self.scores = _checked_scores(self.score_items(start, stop), (self.num_rows, stop - start))
        return self.scores


def _rank_among_all(read: _Reader, targets: torch.Tensor, forbidden: torch.Tensor, slices: Slices) -> torch.Tensor:
    target_scores = _scores_of(read, torch.stack([torch.arange(len(targets)), targets]), slices)
    above = torch.zeros(len(targets), dtype=torch.int64, device=target_scores.device)
    for start, stop in reversed(slices):
        scores = read(start, stop)
        above += _twice_above(scores, target_scores)
        # taking forbidden items back out of the count costs less than a copy of the scores without them
        rows, columns = within(forbidden, start, stop, scores.device)
        above.index_add_(0, rows, _twice_above(scores[rows, columns, None], target_scores[rows]), alpha=-1)
    return (above - 1).float() / 2  # the target tied with itself


def _rank_among(read: _Reader, targets: torch.Tensor, rivals: torch.Tensor, slices: Slices) -> torch.Tensor:
    own = torch.stack([torch.arange(len(targets)), targets])
    scores = _scores_of(read, torch.cat([own, rivals], 1), slices)
    rows = rivals[0].to(scores.device)
    above = torch.zeros(len(targets), dtype=torch.int64, device=scores.device)
    above.index_add_(0, rows, _twice_above(scores[len(targets) :], scores[rows]))
    return above.float() / 2


def _scores_of(read: _Reader, pairs: torch.Tensor, slices: Slices) -> torch.Tensor:
    """Scores of (row, token) pairs, shape `(num_pairs, 1)`, in one sweep over the slices that hold any."""
    places, found = [], []
    for start, stop in slices:
        here = ((pairs[1] >= start) & (pairs[1] < stop)).nonzero()[:, 0]
        if len(here):
            places.append(here)
            found.append(read(start, stop)[pairs[0, here], pairs[1, here] - start])
    return torch.cat(found)[torch.cat(places).argsort(), None]


def _twice_above(scores: torch.Tensor, target_scores: torch.Tensor) -> torch.Tensor:
    """Per row, twice the number of scores above the target's plus the number that equal it: whole, so exact."""
    counts = [scores.new_empty(0, dtype=torch.int64)]
    for part, target in _row_parts(scores, target_scores):
        counts.append((part > target).sum(1, dtype=torch.int32) + (part >= target).sum(1, dtype=torch.int32))
    return torch.cat(counts).long()


def _row_parts(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """A few rows at a time: intermediate results that stay in the cache make a pass over scores three times faster."""
    num_rows = max(1, _ELEMENTS_AT_ONCE // max(1, tensors[0].shape[1]))
    return zip(*(tensor.split(num_rows) for tensor in tensors), strict=True)


def _ordered_top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best columns of each row (all, where there are fewer), highest first, equal scores in column order."""
    k = min(k, scores.shape[1])
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values[:, :1].isnan().any():  # a NaN is larger than any number to topk
        raise ValueError(_NAN_MESSAGE)
    # topk takes any of the columns that tie for the last place: where there are such, count them off from the left
    tied = ((values[:, k - 1] == values[:, -1]) & ~torch.isneginf(values[:, -1])).nonzero()[:, 0]
    if values.shape[1] > k and len(tied):
        from_left = -torch.arange(scores.shape[1], dtype=torch.float32, device=scores.device)
        chosen = [
            torch.where(part == last, from_left, torch.where(part > last, 1.0, -torch.inf)).topk(k, dim=1).indices
            for part, last in _row_parts(scores[tied], values[tied, k - 1 : k])
        ]
        columns[tied, :k] = torch.cat(chosen)
    columns = columns[:, :k].sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)  # (batch_size, k)


def _checked_scores(scores: torch.Tensor, shape: tuple[int, int], allow_nan: bool = False) -> torch.Tensor:
    if tuple(scores.shape) != shape:
        raise ValueError(f"Scores have shape {tuple(scores.shape)}, expected {shape}: give one row per history.")
    if not allow_nan and scores.numel() and scores.amax().isnan():
        raise ValueError(_NAN_MESSAGE)
    return scores.float()


def _checked_targets(targets: torch.Tensor, low: int, high: int) -> torch.Tensor:
    targets = torch.as_tensor(targets).cpu().long()
    if targets.ndim != 1:
        raise ValueError(f"Targets have shape {tuple(targets.shape)}: give one token per row.")
    outside = targets[(targets < low) | (targets >= high)]
    if len(outside):
        raise ValueError(f"Target {int(outside[0])} is no item token: give tokens between {low} and {high - 1}.")
    return targets


def _slices(first_item: int, vocab_size: int, slice_size: int) -> Slices:
    if not 1 <= slice_size <= 2**24:  # columns of a slice are counted in float32
        raise ValueError(f"slice_size is {slice_size}: give a number between 1 and {2**24}.")
    if vocab_size <= first_item:
        raise ValueError(f"vocab_size is {vocab_size}, so no item follows the {first_item} special tokens: add items.")
    return [(start, min(start + slice_size, vocab_size)) for start in range(first_item, vocab_size, slice_size)]
