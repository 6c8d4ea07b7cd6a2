"""
A generated world whose best possible score is known, for the demo and for asking whether a model can learn at all.

Every film of the world has a theme and a mood ("Midnight Pirate", "Golden Pirate", "Midnight Robot"). What a person
watches next depends on all that they watched, the later the more: interest in a theme fades slowly, interest in a mood
somewhat faster. With shares a and b of the fading interest that lie on the film's theme and mood,

    P(film | history) ~ popularity * (.1 / num_themes + .9 a) * (.5 / num_moods + .5 b)     for films not yet seen.

Nothing else is hidden: this is the probability that the histories were drawn with, so no scorer can expect a better
NDCG, Recall or MRR than one that ranks by it. Popularity knows the first factor only, and counts of what followed the
last film see one film of the history.

*Source:* ours. Interests that grow with each choice are a Polya urn; the fading is that of exponential smoothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

_THEMES = ("Pirate", "Robot", "Sheriff", "Vampire", "Detective", "Dragon", "Samurai", "Viking")
_MOODS = ("Midnight", "Golden", "Silent", "Burning", "Lost")

# Short histories over few films, so that what is forbidden because it was seen does not outweigh what is liked: a model
# that reads the taste then comes near the best possible within a minute of training.
_HISTORY_LENGTHS = (6, 10)
_POPULARITY_EXPONENT = 0.8  # popularity falls with place ** -0.8
_THEME_MEMORY, _THEME_CURIOSITY, _THEME_FOCUS = 0.99, 0.1, 1.0  # share kept per film, share of any theme, exponent
_MOOD_MEMORY, _MOOD_CURIOSITY, _MOOD_FOCUS = 0.97, 0.5, 1.0
_EPOCH = 1_700_000_000  # in November 2023
_SECONDS_A_YEAR, _SECONDS_BETWEEN_FILMS = 31_536_000, 250_000
_SPECIAL_TOKENS = 3


class SyntheticWorld:
    r"""
    Films, people and their histories, all fixed by the seed.

    Args:
        num_users (`int`, *optional*, defaults to 12000): People, each with 6 to 10 films.
        num_items (`int`, *optional*, defaults to 120): Films. The first 40 are all pairs of 8 themes and 5 moods; further
            ones are their sequels.
        seed (`int`, *optional*, defaults to 0): Fixes everything.

    Attributes:
        item_ids (`list[str]`): Raw ids of the films.
        titles (`dict[str, str]`): Raw id to title.

    Raises:
        ValueError: If there are no users, or fewer than 20 items: a history holds 10 different ones.

    Example:
        >>> world = SyntheticWorld(num_users=50)
        >>> log = world.generate()
        >>> list(log.columns), log.user_id.nunique()
        (['user_id', 'item_id', 'timestamp'], 50)
        >>> world.titles["f000"]
        'Silent Dragon 3'
    """

    def __init__(self, num_users: int = 12000, num_items: int = 120, seed: int = 0) -> None:
        if num_users < 1:
            raise ValueError(f"num_users is {num_users}: give at least 1.")
        if num_items < _HISTORY_LENGTHS[1] + 10:
            raise ValueError(f"num_items is {num_items}: give at least {_HISTORY_LENGTHS[1] + 10}.")
        self.num_users, self.num_items, self.seed = num_users, num_items, seed
        generator = np.random.default_rng([seed, 0])
        kinds = generator.permutation(num_items)  # so that an id tells nothing
        self._theme = kinds % len(_THEMES)
        self._mood = kinds // len(_THEMES) % len(_MOODS)
        self._popularity = (1 + generator.permutation(num_items)) ** -_POPULARITY_EXPONENT
        self.item_ids = [f"f{item:0{max(3, len(str(num_items - 1)))}d}" for item in range(num_items)]
        parts = kinds // (len(_THEMES) * len(_MOODS))
        self.titles = {
            item_id: f"{_MOODS[mood]} {_THEMES[theme]}" + (f" {part + 1}" if part else "")
            for item_id, mood, theme, part in zip(self.item_ids, self._mood, self._theme, parts, strict=True)
        }

    def generate(self) -> pd.DataFrame:
        r"""
        Draw the log of all users.

        Returns:
            `pandas.DataFrame`: `user_id` (string), `item_id` (string) and `timestamp` (whole seconds, all different
            within a user), in order of time. No user sees a film twice.

        Example:
            >>> world = SyntheticWorld(num_users=3, num_items=20)
            >>> world.generate().equals(world.generate())
            True
        """
        generator = np.random.default_rng([self.seed, 1])
        films = np.empty((self.num_users, _HISTORY_LENGTHS[1]), dtype=np.int64)
        themes, moods = np.zeros((self.num_users, len(_THEMES))), np.zeros((self.num_users, len(_MOODS)))
        seen = np.zeros((self.num_users, self.num_items), dtype=bool)
        users = np.arange(self.num_users)
        for step in range(films.shape[1]):
            upto = self._weights(themes, moods, seen).cumsum(1)  # (num_users, num_items)
            chosen = (upto <= (generator.random(self.num_users) * upto[:, -1])[:, None]).sum(1)
            films[:, step] = chosen
            seen[users, chosen] = True
            themes *= _THEME_MEMORY
            moods *= _MOOD_MEMORY
            themes[users, self._theme[chosen]] += 1
            moods[users, self._mood[chosen]] += 1
        lengths = generator.integers(_HISTORY_LENGTHS[0], _HISTORY_LENGTHS[1] + 1, self.num_users)
        first = generator.integers(0, _SECONDS_A_YEAR, self.num_users)
        gaps = generator.geometric(1 / _SECONDS_BETWEEN_FILMS, films.shape)  # at least one second
        times = _EPOCH + first[:, None] + gaps.cumsum(1)
        kept = np.arange(films.shape[1]) < lengths[:, None]  # who stops, and when, does not depend on the films
        width = len(str(self.num_users - 1))
        names = np.array([f"u{user:0{width}d}" for user in range(self.num_users)])
        log = pd.DataFrame(
            {
                "user_id": np.repeat(names, lengths),
                "item_id": np.array(self.item_ids)[films[kept]],
                "timestamp": times[kept],
            }
        )
        return log.sort_values("timestamp", kind="stable", ignore_index=True)

    def best_possible(self, item_ids: Sequence[str] | None = None) -> BestPossible:
        r"""
        The scorer that knows the world.

        Args:
            item_ids (sequence of `str`, *optional*): Raw ids in token order (a tokenizer's or the prepared data's
            `item_ids`); the
                first one is token 3. Defaults to the world's own order.

        Returns:
            [`BestPossible`]: follows `ranking.Scorer`.

        Raises:
            ValueError: If an id is no item of this world, or occurs twice.

        Example:
            >>> world = SyntheticWorld()
            >>> probabilities = world.best_possible()(None, [np.array([3, 4, 5])])(3, 123)
            >>> probabilities[0, :3].tolist(), round(probabilities.sum().item(), 5)
            ([0.0, 0.0, 0.0], 1.0)
        """
        index = {item_id: item for item, item_id in enumerate(self.item_ids)}
        item_ids = [str(item_id) for item_id in (self.item_ids if item_ids is None else item_ids)]
        unknown = [item_id for item_id in item_ids if item_id not in index]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no item of this world: give ids of a log that it generated.")
        if len(set(item_ids)) < len(item_ids):
            raise ValueError(f"{len(item_ids)} ids name {len(set(item_ids))} items: give each id once.")
        return BestPossible(self, np.array([index[item_id] for item_id in item_ids], dtype=np.int64))

    def _weights(self, themes: np.ndarray, moods: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Probabilities of the next film up to a factor per row, from fading interests and a mask of films."""
        weights = (
            self._popularity
            * _appeal(themes, _THEME_CURIOSITY, _THEME_FOCUS)[:, self._theme]
            * _appeal(moods, _MOOD_CURIOSITY, _MOOD_FOCUS)[:, self._mood]
        )  # (num_rows, num_items)
        weights[seen] = 0
        return weights


class BestPossible:
    r"""
    Scores each item by the probability with which the world draws it next, given the whole history; see
    [`SyntheticWorld.best_possible`].

    Args:
        world ([`SyntheticWorld`]): Where the histories come from.
        items (`np.ndarray` of shape `(num_items,)`): The world's item behind token 3, 4 and so on.

    Attributes:
        vocab_size (`int`): Number of tokens, the three special tokens included.
    """

    def __init__(self, world: SyntheticWorld, items: np.ndarray) -> None:
        self._world, self._items = world, items
        self.vocab_size = len(items) + _SPECIAL_TOKENS

    def __call__(self, user_ids: list[Any] | None, histories: list[np.ndarray]) -> Callable[[int, int], torch.Tensor]:
        r"""
        See `ranking.Scorer`. Special tokens in a history are passed over; the score of special tokens is 0.
        """
        histories = [self._items[history[history >= _SPECIAL_TOKENS] - _SPECIAL_TOKENS] for history in histories]
        lengths = np.array([len(history) for history in histories], dtype=np.int64)
        films = np.concatenate([*histories, np.empty(0, np.int64)])
        rows = np.repeat(np.arange(len(histories)), lengths)
        ages = np.repeat(lengths.cumsum(), lengths) - 1 - np.arange(len(films))  # 0 for the last film
        world = self._world
        themes = _count(rows, world._theme[films], _THEME_MEMORY**ages, (len(histories), len(_THEMES)))
        moods = _count(rows, world._mood[films], _MOOD_MEMORY**ages, (len(histories), len(_MOODS)))
        seen = _count(rows, films, np.ones(len(films)), (len(histories), world.num_items)) > 0
        weights = world._weights(themes, moods, seen)
        scores = np.zeros((len(histories), self.vocab_size), dtype=np.float32)
        scores[:, _SPECIAL_TOKENS:] = (weights / weights.sum(1, keepdims=True))[:, self._items]
        table = torch.from_numpy(scores)
        return lambda start, stop: table[:, start:stop]


def _appeal(interest: np.ndarray, curiosity: float, focus: float) -> np.ndarray:
    total, num_kinds = interest.sum(1, keepdims=True), interest.shape[1]
    share = np.divide(interest, total, out=np.full_like(interest, 1 / num_kinds), where=total > 0)
    return (curiosity / num_kinds + (1 - curiosity) * share) ** focus


def _count(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.bincount(rows * shape[1] + columns, weights, shape[0] * shape[1]).reshape(shape)
