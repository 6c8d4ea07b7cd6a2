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
