"""
When memory that was freed goes back to the system: not between the batches of a ranking, now and then in a training.

A ranking frees the same large blocks after every layer and asks for them again, and the system clears each page anew: a
sixth of the time, and a thirtieth of a training's. A training frees blocks whose sizes change from batch to batch; the C
library keeps what fits no longer, and a process that needs 200 MB comes to hold 500.

*Source:* `mallopt(3)` and `malloc_trim(3)` of the GNU C library.
"""

from __future__ import annotations

import ctypes
import sys

from transformers import TrainerCallback

# A training gives memory back after so many steps or more, when it holds so many times what one step needs, both counted from
# its beginning. To do it after every step would cost a quarter of the time, after every 16th 2 to 7 %.
STEPS_BETWEEN_TRIMS, MOST_HELD = 16, 1.75
# Pages that are not worth the time: 64 MB, which `keep_free_memory` keeps at the end of the heap.
LEAST_TRIM = 1 << 14
# Parameters of `mallopt`, from `malloc.h`.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# The C library's own limit for blocks that it may keep. Setting one of the two fixes the other at its start, so both are set.
LARGEST_KEPT_BLOCK = 32 << 20


def keep_free_memory(num_bytes: int = 64 << 20) -> bool:
    r"""
    Keep up to so many bytes that were freed for the next blocks of this process, instead of giving them back at once.

    Returns:
        `bool`: Whether the C library agreed; never where it is not GNU's.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is None:
        return False
    return bool(set_option(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK) and set_option(M_TRIM_THRESHOLD, num_bytes))


def return_free_memory() -> bool:
    r"""
    Give every free page of this process back to the system; takes a few milliseconds.

    Returns:
        `bool`: Whether any was given back; never where the C library is not GNU's.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return trim is not None and bool(trim(0))


def resident_pages() -> int:
    r"""
    Returns:
        `int`: pages of memory that this process holds; 0 where the system has no `/proc`.
    """
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])
    except OSError:
        return 0


class ReturnFreeMemory(TrainerCallback):
    """Keeps what the steps of a training on a CPU free, and gives it back when the process holds far more than one needs."""

    def __init__(self):
        # Steps since memory was given back; pages held when training began; pages at which it is given back again.
        self._num_steps, self._at_begin, self._most = 0, 0, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        return_free_memory()  # what loading has freed is not needed by a step
        keep_free_memory()  # what a step has freed is, by the next
        self._at_begin = resident_pages()

    def on_train_end(self, args, state, control, **kwargs):
        return_free_memory()  # nor what training has freed by a ranking that follows

    def on_step_end(self, args, state, control, **kwargs):
        self._num_steps += 1
        if self._num_steps == 1:
            needed = max(0, resident_pages() - self._at_begin)
            self._most = self._at_begin + max(MOST_HELD * needed, needed + LEAST_TRIM)
        elif self._num_steps >= STEPS_BETWEEN_TRIMS and resident_pages() > self._most:
            return_free_memory()
            self._num_steps = 0
