"""
Lists of tokens, one per row of a batch, as pairs of row and token: how ranking says which scores are meant.

*Source:* none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

TokenLists = np.ndarray | torch.Tensor | Sequence[Any]


def is_shared(tokens: TokenLists | None) -> bool:
    """Whether these are tokens for all rows (numbers, or nothing at all) rather than one list per row."""
    return tokens is not None and (len(tokens) == 0 or np.ndim(tokens[0]) == 0)


def as_tokens(tokens: Any, name: str, bounds: tuple[int, int]) -> np.ndarray:
    tokens = np.asarray(tokens)
    whole = tokens.astype(np.int64)
    if tokens.ndim != 1 or (whole != tokens).any():
        raise ValueError(f"{name} has {tokens.dtype} values of shape {tokens.shape}: give 1-D arrays of token ids.")
    outside = whole[(whole < bounds[0]) | (whole >= bounds[1])]
    if len(outside):
        raise ValueError(f"{name} has token {outside[0]}: give tokens between {bounds[0]} and {bounds[1] - 1}.")
    return whole


def pair_keys(lists: TokenLists | None, num_rows: int, name: str, bounds: tuple[int, int]) -> np.ndarray:
    """`row * vocab_size + token` of one token list per row, as they come; `bounds` = (lowest, vocab_size)."""
    if lists is None or (num_rows == 0 and len(lists) == 0):
        return np.empty(0, np.int64)
    if len(lists) != num_rows:
        raise ValueError(f"{name} has {len(lists)} lists for {num_rows} rows: give one per row.")
    arrays = [np.asarray(tokens) for tokens in lists]
    tokens = as_tokens(np.concatenate(arrays), name, bounds)
    rows = np.repeat(np.arange(num_rows), [len(array) for array in arrays])
    return rows * bounds[1] + tokens


def as_pairs(keys: np.ndarray, vocab_size: int) -> torch.Tensor:
    """Rows and tokens, of shape `(2, num_pairs)`, in order of their tokens."""
    # torch sorts whole numbers in half of numpy's time
    tokens, order = torch.from_numpy(keys % vocab_size).sort(stable=True)
    return torch.stack([torch.from_numpy(keys // vocab_size)[order], tokens])


def within(pairs: torch.Tensor, start: int, stop: int, device: torch.device) -> torch.Tensor:
    """Rows and columns of the pairs that lie in the slice of tokens `start .. stop - 1`."""
    first, end = torch.searchsorted(pairs[1], torch.tensor([start, stop])).tolist()
    return torch.stack([pairs[0, first:end], pairs[1, first:end] - start]).to(device)


class ForbiddenTokens:
    r"""
    Sets scores of tokens that may not be listed to -inf, in a copy: a scorer's tensor may be a view of what it keeps.

    Args:
        sizes (`tuple[int, int, int]`): Rows, `vocab_size`, and the first token that is an item.
        seen, allowed, denied: See [`~ranking.top_k_items`].
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        seen: TokenLists | None,
        allowed: TokenLists | None,
        denied: TokenLists | None,
    ) -> None:
        num_rows, vocab_size, first_item = sizes
        self.kept = self.allowed = None
        keys = [pair_keys(seen, num_rows, "seen", (0, vocab_size))]
        if is_shared(allowed):
            self.kept = torch.zeros(vocab_size, dtype=torch.bool)
            self.kept[as_tokens(allowed, "allowed", (first_item, vocab_size))] = True
        elif allowed is not None:
            self.allowed = as_pairs(pair_keys(allowed, num_rows, "allowed", (first_item, vocab_size)), vocab_size)
        if is_shared(denied):
            self.kept = torch.ones(vocab_size, dtype=torch.bool) if self.kept is None else self.kept
            self.kept[as_tokens(denied, "denied", (0, vocab_size))] = False
        else:
            keys.append(pair_keys(denied, num_rows, "denied", (0, vocab_size)))
        self.forbidden = as_pairs(np.concatenate(keys), vocab_size)

    def of_slice(self, scores: torch.Tensor, start: int) -> torch.Tensor:
        """The scores of the tokens from `start` on, `(rows, size)`, without those that are forbidden."""
        scores = self.of_slice_for_all(scores, start)
        rows, columns = within(self.forbidden, start, start + scores.shape[1], scores.device)
        return scores.index_put((rows, columns), scores.new_tensor(-torch.inf)) if len(rows) else scores

    def of_slice_for_all(self, scores: torch.Tensor, start: int) -> torch.Tensor:
        """The same, but for tokens that single rows forbid: see `of_some`."""
        stop = start + scores.shape[1]
        if self.allowed is not None:
            rows, columns = within(self.allowed, start, stop, scores.device)
            scores = torch.full_like(scores, -torch.inf).index_put((rows, columns), scores[rows, columns])
        if self.kept is not None:
            scores = scores.masked_fill(~self.kept[start:stop].to(scores.device), -torch.inf)
        return scores

    def of_some(self, scores: torch.Tensor, tokens: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Some scores of a slice, `(rows, some)`, each of its own token, without those that single rows forbid."""
        rows, columns = within(self.forbidden, start, stop, scores.device)
        is_forbidden = torch.zeros(len(scores), stop - start, dtype=torch.bool, device=scores.device)
        is_forbidden[rows, columns] = True
        return scores.masked_fill(is_forbidden.gather(1, tokens - start), -torch.inf)
