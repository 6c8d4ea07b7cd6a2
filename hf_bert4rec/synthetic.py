"""
A generated world whose best possible score is known, for the demo and for asking whether a model can learn at all.

Every film of the world has a theme and a mood ("Midnight Pirate", "Golden Pirate", "Midnight Robot"). What a person watches next
depends on all that they watched, the later the more: interest in a theme fades slowly, interest in a mood within a few films.
With shares a and b of the fading interest that lie on the film's theme and mood,

    P(film | history) ~ popularity * (.1 / num_themes + .9 a) ^ 1.5 * (.5 / num_moods + .5 b)     for films not yet seen.

Nothing else is hidden: this is the probability that the histories were drawn with, so no scorer can expect a better NDCG, Recall or
MRR than one that ranks by it. Popularity knows the first factor only, and counts of what followed the last film see one film of
the history.

*Source:* ours. Interests that grow with each choice are a Polya urn; the fading is that of exponential smoothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

_THEMES = (
    *("Pirate", "Robot", "Sheriff", "Vampire", "Detective", "Dragon", "Samurai", "Pharaoh", "Submarine", "Violin"),
    *("Comet", "Viking", "Ghost", "Kitchen", "Jungle", "Striker", "Spy", "Circus", "Wedding", "Glacier"),
)
_MOODS = ("Midnight", "Golden", "Silent", "Burning", "Lost", "Secret", "Laughing", "Broken", "Electric", "Last")

_HISTORY_LENGTHS = (15, 30)
_POPULARITY_EXPONENT = 0.9  # popularity falls with place ** -0.9
_THEME_MEMORY, _THEME_CURIOSITY, _THEME_FOCUS = 0.95, 0.1, 1.5  # share kept per film, share of any theme, exponent
_MOOD_MEMORY, _MOOD_CURIOSITY, _MOOD_FOCUS = 0.6, 0.5, 1.0
_SPECIAL_TOKENS = 3


class SyntheticWorld:
    r"""
    Films, people and their histories, all fixed by the seed.

    Args:
        num_users (`int`, *optional*, defaults to 4000): People, each with 15 to 30 films.
        num_items (`int`, *optional*, defaults to 200): Films. The first 200 are all pairs of 20 themes and 10 moods; further ones are
            their sequels.
        seed (`int`, *optional*, defaults to 0): Fixes everything.

    Attributes:
        item_ids (`list[str]`): Raw ids of the films.
        titles (`dict[str, str]`): Raw id to title.

    Raises:
        ValueError: If there are no users, or fewer than 40 items: a history holds 30 different ones.

    Example:
        >>> world = SyntheticWorld(num_users=50)
        >>> log = world.generate()
        >>> list(log.columns), log.user_id.nunique()
        (['user_id', 'item_id', 'timestamp'], 50)
        >>> world.titles["f000"]
        'Golden Robot'
    """

    def __init__(self, num_users: int = 4000, num_items: int = 200, seed: int = 0) -> None:
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
            `pandas.DataFrame`: `user_id` (string), `item_id` (string) and `timestamp` (whole seconds, all different within a user),
            in order of time. No user sees a film twice.

        Example:
            >>> world = SyntheticWorld(num_users=3, num_items=40)
            >>> world.generate().equals(world.generate())
            True
        """
        generator = np.random.default_rng([self.seed, 1])
        longest = _HISTORY_LENGTHS[1]
        themes, moods = _Memory(self._theme, _THEME_MEMORY), _Memory(self._mood, _MOOD_MEMORY)
        theme_state = np.zeros((self.num_users, len(_THEMES)))
        ...
