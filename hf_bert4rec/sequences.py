"""
Data sets of tokenised histories, kept as flat values with offsets (memory-mapped), never as lists of lists.

The data set owns the order of an epoch and the window of each long history: both are functions of (seed, epoch, row), set
by `set_epoch`, which `Trainer` calls. The sampler stays sequential, so that the same rows come in the same batches with
any number of processes or accumulation steps, and after a stop and resume.

*Source:* windows over long histories: the authors' code of Sun et al. (CIKM 2019), which cuts sliding windows.
*Differences:* one window per history and epoch, drawn at random, instead of all windows at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .randomness import uniform

if TYPE_CHECKING:
    from .interactions import InteractionData

# Users whose training events are copied at a time.
USERS_AT_ONCE = 1 << 14


class TrainingSequences(torch.utils.data.Dataset):
    r"""
    The training part of each history, in an order and in windows that change with the epoch.

    Args:
        data ([`InteractionData`]): The prepared log.
        max_length (`int`): Events of a window (the model's `max_position_embeddings`).
        window (`str`, *optional*, defaults to `"random"`):
            Which events of a longer history: a `"random"` window each epoch, or the `"newest"`.
        length_multiple (`int`, *optional*, defaults to 1):
            The number of rows is rounded up to a multiple of it by empty rows, which carry no label: with the rows that
            all processes take at a time, no process repeats a row to fill its last batch.
        seed (`int`, *optional*, defaults to 0): Seed of order and windows.

    Raises:
        ValueError: If `window` is unknown, or if no history has an event to train on.
    """

    def __init__(
        self,
        data: InteractionData,
        *,
        max_length: int,
        window: str = "random",
        length_multiple: int = 1,
        seed: int = 0,
    ):
        if window not in ("random", "newest"):
            raise ValueError(f"The window is {window!r}; choose 'random' or 'newest'.")
        self.users = np.flatnonzero(data.train_end > 0)
        if not len(self.users):
            raise ValueError("No history has an event to train on; prepare the log with weaker filters.")
        self.data, self.max_length = data, max_length
        self.window, self.seed = window, seed
        self.num_rows = -(-len(self.users) // length_multiple) * length_multiple
        # Workers that live on from epoch to epoch have a copy of all but this.
        self._wanted_epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._draw(0)

    def set_epoch(self, epoch: int):
        """Draw the windows and the order of an epoch (counted from 0)."""
        self._wanted_epoch.fill_(int(epoch))
        self._draw(int(epoch))

    def _draw(self, epoch: int):
        self.epoch = epoch
        num_events = self.data.train_end[self.users]
        num_windows = np.maximum(num_events - self.max_length, 0) + 1
        if self.window == "random":
            drawn = uniform("window", self.seed, self.epoch, self.users) * num_windows
            self.window_start = np.minimum(drawn.astype(np.int64), num_windows - 1)
        else:
            self.window_start = num_windows - 1
        self.window_length = np.minimum(num_events, self.max_length)
        self.order = np.argsort(uniform("order", self.seed, self.epoch, self.users), kind="stable")

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict:
        """`input_ids` (`np.int64` tokens, oldest first), `row` and `epoch`, from which the masks are drawn."""
        if not 0 <= index < self.num_rows:
            raise IndexError(f"Row {index} of {self.num_rows} does not exist.")
        if self.epoch != (wanted := int(self._wanted_epoch)):
            self._draw(wanted)
        if index >= len(self.order):
            return {"input_ids": np.empty(0, np.int64), "row": -1, "epoch": self.epoch}
        row = self.order[index]
        user = self.users[row]
        start = self.data.offsets[user] + self.window_start[row]
        events = self.data.events[start : start + self.window_length[row]]
        return {"input_ids": events.astype(np.int64) + FIRST_ITEM_TOKEN, "row": int(user), "epoch": self.epoch}


class EvaluationSequences(torch.utils.data.Dataset):
    r"""
    Each history before its target, longest first, so that a batch holds like lengths.

    Args:
        data ([`InteractionData`]): The prepared log.
        split (`str`): `"validation"` or `"test"`: which target.

    Raises:
        ValueError: If the split is unknown or no user has a target in it.
    """

    def __init__(self, data: InteractionData, *, split: str):
        if split not in ("validation", "test"):
            raise ValueError(f"The split is {split!r}; choose 'validation' or 'test'.")
        self.data, self.split = data, split
        target = data.validation_target if split == "validation" else data.test_target
        users = np.flatnonzero(target >= 0)
        if not len(users):
            remedy = "a user needs at least three events"
            if data.metadata["split"] != "leave-one-out":
                remedy = f"a user needs three events, one in the {split} period and one before it: prepare with other shares"
            raise ValueError(f"No user has a {split} target; {remedy}.")
        self.users = users[np.argsort(-target[users], kind="stable")]
        self.target_positions = target[self.users]

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> dict:
        """`input_ids`: tokens of all events before the target; `target`: its token; `row`: the user's index."""
        user = self.users[index]
        start = self.data.offsets[user]
        tokens = self.data.events[start : start + self.target_positions[index] + 1].astype(np.int64) + FIRST_ITEM_TOKEN
        return {"input_ids": tokens[:-1], "target": int(tokens[-1]), "row": int(user)}


def training_events(data: InteractionData) -> tuple[np.ndarray, np.ndarray]:
    r"""
    The events that may be trained on, for baselines and counts.

    Args:
        data ([`InteractionData`]): The prepared log.

    Returns:
        `tuple`: flat tokens (`np.int32`) and offsets (`np.int64` of shape `(num_users + 1,)`).
    """
    offsets = np.concatenate([[0], np.cumsum(data.train_end)]).astype(np.int64)
    tokens = np.empty(offsets[-1], dtype=np.int32)
    for first in range(0, data.num_users, USERS_AT_ONCE):
        users = slice(first, first + USERS_AT_ONCE)
        starts, ends = data.offsets[:-1][users], data.offsets[1:][users]
        # +1 where a user's held-out events begin, -1 where they end.
        changes = np.zeros(ends[-1] - starts[0] + 1, dtype=np.int8)
        np.add.at(changes, starts - starts[0] + data.train_end[users], 1)
        np.subtract.at(changes, ends - starts[0], 1)
        is_training = np.cumsum(changes[:-1], dtype=np.int8) == 0
        places = slice(offsets[first], offsets[first + len(starts)])
        tokens[places] = data.events[starts[0] : ends[-1]][is_training]
        tokens[places] += FIRST_ITEM_TOKEN
    return tokens, offsets
