"""
Few sizes for matrices whose number of rows depends on the data.

In bfloat16 on a CPU torch's products are those of oneDNN, which writes a program for each new shape: .6 to 2 ms, as long as the
product itself at the sizes of this package, and .1 to .7 MB. Memory of sizes that come again is used again, too, where that of
ever new ones is scattered. Eight sizes to an octave cost a sixteenth of more rows at most times.

*Source:* none.
"""

from collections.abc import Callable

import torch
from torch import nn

SIZES_PER_OCTAVE = 8


def autocast_dtype() -> torch.dtype | None:
    """What products on a CPU are cast to at this moment, or `None`."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def next_size(number: int) -> int:
    """
    The smallest of the few sizes that holds so many.

    Example:
        >>> [next_size(number) for number in (0, 1, 15, 16, 17, 33, 200)]
        [0, 1, 15, 16, 18, 36, 208]
    """
    step = 1 << max(0, (number - 1).bit_length() - SIZES_PER_OCTAVE.bit_length())
    return -(-number // step) * step


def with_few_sizes(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    r"""
    What a function gives of rows that do not know each other, under autocast computed with zeros up to one of few numbers.

    Args:
        function (`Callable`): Takes and gives one row for each, `(num_rows, ...)`.
        rows (`torch.Tensor` of shape `(num_rows, hidden_size)`): Its input.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     with_few_sizes(lambda rows: rows + len(rows), torch.zeros(17, 1))[:, 0].tolist() == [18.0] * 17
        True
    """
    if autocast_dtype() is None:
        return function(rows)
    return function(nn.functional.pad(rows, (0, 0, 0, next_size(len(rows)) - len(rows))))[: len(rows)]
