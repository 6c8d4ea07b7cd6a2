"""
The histories that every system is given, as flat arrays in one file. Needs numpy alone: it is read in every environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Histories:
    """
    All histories of a data set. The last event of each is the test target, the one before it the validation target.

    Args:
        user_ids (`np.ndarray` of shape `(num_users,)`): Raw ids.
        items (`np.ndarray` of shape `(num_events,)`): Raw ids of the items, user after user, oldest event first.
        offsets (`np.ndarray` of shape `(num_users + 1,)`): Where each user's events begin.

    Example:
        >>> histories = Histories(np.array([7, 8]), np.array([1, 2, 3, 4, 5, 6, 7]), np.array([0, 3, 7]))
        >>> histories.num_items, histories.without_last(2)[1].tolist()
        (7, [4, 5])
    """

    user_ids: np.ndarray
    items: np.ndarray
    offsets: np.ndarray

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(np.unique(self.items))

    def without_last(self, held_out: int) -> list[np.ndarray]:
        """Each history without its newest events: 2 leaves what is trained on, 1 what the test target follows."""
        ends = self.offsets[1:] - held_out
        return [self.items[start:end] for start, end in zip(self.offsets[:-1], ends, strict=True)]

    def columns(self, held_out: int, users: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """
        A log with the columns `user_id`, `item_id` and `time` (the place in the history).

        Args:
            held_out (`int`): How many of each user's newest events are left out.
            users (`np.ndarray`, *optional*): Indices of the users; by default all.
        """
        users = np.arange(self.num_users) if users is None else users
        parts = self.without_last(held_out)
        chosen = [parts[user] for user in users]
        lengths = [len(part) for part in chosen]
        return {
            "user_id": np.repeat(self.user_ids[users], lengths),
            "item_id": np.concatenate(chosen),
            "time": np.concatenate([np.arange(length) for length in lengths]),
        }

    def sampled_users(self, wanted: int) -> np.ndarray:
        """Indices of users drawn with a fixed seed, so that each system recommends for the same ones; all if fewer."""
        drawn = np.random.default_rng(0).permutation(self.num_users)[:wanted]
        return np.sort(drawn)

    def save(self, path: Path):
        """Write `path`, whole or not at all."""
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, user_ids=self.user_ids, items=self.items, offsets=self.offsets)
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Histories:
        with np.load(path) as arrays:
            return cls(arrays["user_ids"], arrays["items"], arrays["offsets"])
