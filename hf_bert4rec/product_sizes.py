"""
Few sizes for matrices whose number of rows depends on the data.

In bfloat16 on a CPU torch's products are those of oneDNN, which writes a program for each new shape: .6 ms, as long as the
product itself at the sizes of this package. Eight sizes to an octave cost a sixteenth of more rows at most times and leave
few programs to write; products in float32, of MKL, need none and lose nothing that was measured.

*Source:* none.
"""

import torch

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
