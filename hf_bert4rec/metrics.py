"""
From ranks and recommended lists to the numbers that somebody publishes.

A rank counts the items above the target from 0, a tie as half an item (`ranking.target_ranks`). A hit at k is a rank
below k.

*Source:* Recall and NDCG as in Sun et al., "BERT4Rec" (CIKM 2019), section 4.2, where each user has one target:
Recall@k is then the same as their HR@k, and the ideal DCG is 1. Percentile bootstrap: Efron and Tibshirani, "An
Introduction to the Bootstrap" (1993), chapter 13. Catalogue coverage: Herlocker et al., "Evaluating Collaborative
Filtering Recommender Systems" (TOIS 2004), section 5.1.

*Differences:* half ranks enter the formulas as they are. The bootstrap draws how often each rank occurs instead of
which users, which is the same distribution and does not grow with the number of users; ranks beyond every k, of which
only the reciprocal counts, are drawn in classes 1 % wide, each with the mean reciprocal rank of its members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

USERS_AT_ONCE = 1 << 16  # whose metrics, one by one, are in memory
UNLISTED = np.iinfo(np.int16).max  # best place of what nobody was recommended: no list is as long
NORMAL_95 = 1.959964  # standard deviations on either side that hold 95 % of a normal distribution


def ranking_metrics(ranks: np.ndarray, ks: Sequence[int] = (1, 5, 10, 20)) -> dict[str, float]:
    r"""
    Recall@k, NDCG@k and the mean reciprocal rank over users with one target each.

    Args:
        ranks (`np.ndarray` of shape `(num_users,)`): Number of items above each target, a tie counting half; infinity
            where the
            target was not listed at all.
        ks (sequence of `int`, *optional*, defaults to `(1, 5, 10, 20)`): Lengths of the list.

    Returns:
        `dict[str, float]`: `recall@k` (share of ranks below k), `ndcg@k` (mean of `1 / log2(rank + 2)` where the rank
        is below k, else 0) for each k, and `mrr` (mean of `1 / (rank + 1)`), all between 0 and 1.

    Raises:
        ValueError: If there are no ranks, if one is NaN or negative, or if a k is not a positive whole number.

    Example:
        >>> ranking_metrics(np.array([0, 2, 30]), ks=(1, 5))  # 1/3, 2/3, (1 + 1/log2(4)) / 3, (1 + 1/3 + 1/31) / 3
        {'recall@1': 0.333..., 'ndcg@1': 0.333..., 'recall@5': 0.666..., 'ndcg@5': 0.5, 'mrr': 0.455...}
    """
    ranks, ks = _checked_ranks(ranks), _checked_ks(ks)
    distinct, counts = np.unique(ranks, return_counts=True)  # far fewer than users
    names, gains = _gains(distinct, ks)
    return dict(zip(names, (counts @ gains / len(ranks)).tolist(), strict=True))


def bootstrap_intervals(
    ranks: np.ndarray,
    ks: Sequence[int] = (1, 5, 10, 20),
    *,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    r"""
    Percentile bootstrap intervals over users, for the metrics of [`ranking_metrics`].

    Args:
        ranks (`np.ndarray` of shape `(num_users,)`): Number of items above each target.
        ks (sequence of `int`, *optional*, defaults to `(1, 5, 10, 20)`): Lengths of the list.
        confidence (`float`, *optional*, defaults to 0.95): Share of the resampled values that lies inside.
        num_resamples (`int`, *optional*, defaults to 1000): How often the users are drawn again, with replacement.
        seed (`int`, *optional*, defaults to 0): Seed of the draws.

    Returns:
        `dict[str, list[float]]`: `[low, high]` for each metric.

    Raises:
        ValueError: As [`ranking_metrics`]; also if `confidence` is not between 0 and 1 or `num_resamples` is below 1.

    Example:
        >>> intervals = bootstrap_intervals(np.arange(100) % 4, ks=(1,), seed=1)
        >>> [round(bound, 2) for bound in intervals["recall@1"]]  # .25 ± 1.96 * sqrt(.25 * .75 / 100)
        [0.17, 0.34]
    """
    ranks, ks = _checked_ranks(ranks), _checked_ks(ks)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a number between 0 and 1, such as 0.95.")
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}: give at least 1.")
    names, gains, counts = _histogram(ranks, ks)
    drawn = np.random.default_rng(seed).multinomial(len(ranks), counts / len(ranks), size=num_resamples)
    values = drawn @ gains / len(ranks)  # (num_resamples, num_metrics)
    tail = (1 - confidence) / 2
    bounds = np.quantile(values, [tail, 1 - tail], axis=0)  # (2, num_metrics)
    return {name: bounds[:, column].tolist() for column, name in enumerate(names)}


def difference_intervals(
    ranks: np.ndarray, other_ranks: np.ndarray, ks: Sequence[int] = (1, 5, 10, 20)
) -> dict[str, list[float]]:
    r"""
    95 % intervals of the mean difference between two scorers on the same users, by the normal approximation.

    Users who are hard for one scorer are hard for the other: pairing them takes that out, so that two scorers may differ
    clearly whose own intervals overlap.

    Args:
        ranks (`np.ndarray` of shape `(num_users,)`): Number of items above each target, by one scorer.
        other_ranks (`np.ndarray` of shape `(num_users,)`): By the other, the same users in the same order.
        ks (sequence of `int`, *optional*, defaults to `(1, 5, 10, 20)`): Lengths of the list.

    Returns:
        `dict[str, list[float]]`: `[low, high]` of the first scorer's metric minus the other's; both above 0 where the
        first is better.

    Raises:
        ValueError: As [`ranking_metrics`]; also if the numbers of users differ.

    Example:
        >>> low, high = difference_intervals(np.array([0, 1] * 50), np.array([1] * 100), ks=(1,))["recall@1"]
        >>> round(low, 2), round(high, 2)  # .5 ± 1.96 * sqrt(.25 / 99)
        (0.4, 0.6)
    """
    ranks, other_ranks, ks = _checked_ranks(ranks), _checked_ranks(other_ranks), _checked_ks(ks)
    if len(ranks) != len(other_ranks):
        raise ValueError(f"{len(ranks)} ranks are compared with {len(other_ranks)}: give the same users to both.")
    names: list[str] = []
    total, squares = np.zeros(()), np.zeros(())
    for start in range(0, len(ranks), USERS_AT_ONCE):
        users = slice(start, start + USERS_AT_ONCE)
        names, gains = _gains(ranks[users], ks)
        differences = gains - _gains(other_ranks[users], ks)[1]  # (users, num_metrics)
        total, squares = total + differences.sum(0), squares + (differences**2).sum(0)
    mean, num_others = total / len(ranks), len(ranks) - 1
    # Differences lie between -1 and 1, so that their squares can be summed without losing digits.
    variance = np.maximum(squares - total * mean, 0) / num_others if num_others else np.full(len(mean), np.inf)
    error = np.sqrt(variance / len(ranks))
    # No metric is below 0 or above 1: a single user says no more than that.
    bounds = np.clip([mean - NORMAL_95 * error, mean + NORMAL_95 * error], -1, 1)  # (2, num_metrics)
    return {name: bounds[:, column].tolist() for column, name in enumerate(names)}


def metrics_by_popularity(
    ranks: Mapping[str, np.ndarray], target_counts: np.ndarray, k: int = 10, *, seed: int = 0
) -> list[dict[str, Any]]:
    r"""
    Recall@k and NDCG@k of users grouped by how often their target occurs in training: a scorer may owe its mean to the
    popular items alone.

    The groups are the same for every log: 0 events, then 1 to 2, 3 to 9, 10 to 29, 30 to 99 and so on, two to a decade.

    Args:
        ranks (mapping of name to `np.ndarray` of shape `(num_users,)`): Number of items above each target, by scorer.
        target_counts (`np.ndarray` of shape `(num_users,)`): Training events of each user's target.
        k (`int`, *optional*, defaults to 10): Length of the list.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.

    Returns:
        list of `dict`: for each group that has users, rarest first, `training_events` (`[fewest, most]`), `num_users` and,
        for each scorer, `recall@k` and `ndcg@k` with 95 % bootstrap `intervals`.

    Raises:
        ValueError: As [`ranking_metrics`]; also if the numbers of users differ.

    Example:
        >>> groups = metrics_by_popularity({"model": np.array([0, 3, 30])}, np.array([5, 5, 0]), k=5)
        >>> [(group["training_events"], group["num_users"], group["model"]["recall@5"]) for group in groups]
        [([0, 0], 1, 0.0), ([3, 9], 2, 1.0)]
    """
    return _metrics_by_group(ranks, target_counts, "training_events", k, seed=seed)


def metrics_by_history_length(
    ranks: Mapping[str, np.ndarray], lengths: np.ndarray, k: int = 10, *, seed: int = 0
) -> list[dict[str, Any]]:
    r"""
    Recall@k and NDCG@k of users grouped by how many events stand before their target: a scorer may serve those alone whom
    it has known for long.

    All events count, also those that lie before the window that a model reads. The groups are those of
    [`metrics_by_popularity`].

    Args:
        ranks (mapping of name to `np.ndarray` of shape `(num_users,)`): Number of items above each target, by scorer.
        lengths (`np.ndarray` of shape `(num_users,)`): Events of each user before the target.
        k (`int`, *optional*, defaults to 10): Length of the list.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.

    Returns:
        list of `dict`: for each group that has users, shortest first, `history_events` (`[fewest, most]`), `num_users` and,
        for each scorer, `recall@k` and `ndcg@k` with 95 % bootstrap `intervals`.

    Raises:
        ValueError: As [`ranking_metrics`]; also if the numbers of users differ.

    Example:
        >>> groups = metrics_by_history_length({"model": np.array([0, 3, 30])}, np.array([12, 2, 20]), k=5)
        >>> [(group["history_events"], group["num_users"], group["model"]["recall@5"]) for group in groups]
        [([1, 2], 1, 1.0), ([10, 29], 2, 0.5)]
    """
    return _metrics_by_group(ranks, lengths, "history_events", k, seed=seed)


def unlisted(num_tokens: int) -> np.ndarray:
    """Best places of tokens that nobody was recommended yet, for [`note_places`]: `int16` of shape `(num_tokens,)`."""
    return np.full(num_tokens, UNLISTED, dtype=np.int16)


def note_places(best_places: np.ndarray, recommended: np.ndarray):
    r"""
    Keep, for each token, the best place that it took in anybody's list; its memory does not grow with the lists.

    Args:
        best_places (`np.ndarray` of shape `(num_tokens,)`): Best places so far, at first [`unlisted`]; changed in place.
        recommended (`np.ndarray` of shape `(num_users, list_length)`): Tokens, best first; negative where a list ended.

    Example:
        >>> best_places = unlisted(10)
        >>> note_places(best_places, np.array([[7, 8], [9, 7]]))
        >>> best_places[7:].tolist()
        [0, 1, 0]
    """
    rows, places = np.nonzero(recommended >= 0)
    np.minimum.at(best_places, recommended[rows, places], places.astype(best_places.dtype))


def coverage(best_places: np.ndarray, num_items: int, ks: Sequence[int] = (1, 5, 10, 20)) -> dict[str, float]:
    r"""
    The share of all items that are among the first k of at least one user's recommendations.

    It tells how much of the catalogue anybody is ever shown, not whether it was wanted, and it grows with the number of users:
    compare scorers on the same users only. At most `num_users * k` items can be covered.

    Args:
        best_places (`np.ndarray` of shape `(num_tokens,)`): Best place of each token in anybody's list, from 0, see
            [`note_places`].
        num_items (`int`): Size of the catalogue, items without a training event included.
        ks (sequence of `int`, *optional*, defaults to `(1, 5, 10, 20)`): How many of each list count; the lists must be as
            long, or end where no item is left.

    Returns:
        `dict[str, float]`: `coverage@k` for each k, between 0 and 1.

    Raises:
        ValueError: If more distinct items were listed than the catalogue has, or if a k is not a positive whole number.

    Example:
        >>> best_places = unlisted(10)
        >>> note_places(best_places, np.array([[7, 8], [7, 9]]))
        >>> coverage(best_places, num_items=4, ks=(1, 2))
        {'coverage@1': 0.25, 'coverage@2': 0.75}
    """
    listed = int((best_places < UNLISTED).sum())
    if listed > num_items:
        raise ValueError(
            f"The lists hold {listed} distinct items, but num_items is {num_items}: give the catalogue's size."
        )
    return {f"coverage@{k}": int((best_places < k).sum()) / num_items for k in _checked_ks(ks)}


def mean_popularity_rank(recommended: np.ndarray, counts: np.ndarray, k: int) -> float:
    r"""
    How far down the popularity chart the first k recommendations lie on average; 0 is the most popular item.

    Args:
        recommended (`np.ndarray` of shape `(num_users, list_length)`): Items or tokens, best first; negative where a
            list ended.
        counts (`np.ndarray` of shape `(num_items,)`): Events of each item in the training part, indexed as
            `recommended` is.
            Items with equal counts share the middle of their places.
        k (`int`): How many of each list count.

    Returns:
        `float`: mean place, counted from 0, over all that was listed.

    Raises:
        ValueError: If the lists are not two-dimensional, shorter than k, or empty.

    Example:
        >>> mean_popularity_rank(np.array([[0, 1], [2, -1]]), counts=np.array([5, 9, 5]), k=2)  # (1.5 + 0 + 1.5) / 3
        1.0
    """
    listed = _listed(recommended, k)
    if not len(listed):
        raise ValueError("The lists are empty, so they have no mean popularity: give at least one recommended item.")
    _, inverse, sizes = np.unique(-np.asarray(counts), return_inverse=True, return_counts=True)
    places = (np.cumsum(sizes) - (sizes + 1) / 2)[inverse]
    return float(places[listed].mean())


def _metrics_by_group(
    ranks: Mapping[str, np.ndarray], values: np.ndarray, name_of_value: str, k: int, *, seed: int
) -> list[dict[str, Any]]:
    values = np.asarray(values)
    for name, of_users in ranks.items():
        if len(of_users) != len(values):
            raise ValueError(f"{name} has {len(of_users)} ranks for {len(values)} targets: give one for each.")
    most = int(values.max(initial=0))
    starts = [0]
    while starts[-1] <= most:
        starts.append(10 ** (len(starts) // 2) if len(starts) % 2 else 3 * 10 ** (len(starts) // 2 - 1))
    group_of = np.searchsorted(starts, values, side="right") - 1
    names = (f"recall@{k}", f"ndcg@{k}")
    groups = []
    for group in np.unique(group_of):
        inside = group_of == group
        found: dict[str, Any] = {
            name_of_value: [starts[group], starts[group + 1] - 1],
            "num_users": int(inside.sum()),
        }
        for scorer, of_users in ranks.items():
            metrics = ranking_metrics(of_users[inside], (k,))
            intervals = bootstrap_intervals(of_users[inside], (k,), seed=seed)
            found[scorer] = {name: metrics[name] for name in names}
            found[scorer]["intervals"] = {name: intervals[name] for name in names}
        groups.append(found)
    return groups


def _gains(ranks: np.ndarray, ks: list[int]) -> tuple[list[str], np.ndarray]:
    """Names of the metrics and what each rank adds to them, shape `(num_ranks, num_metrics)`."""
    discounts = 1 / np.log2(ranks + 2)
    names, gains = [], []
    for k in ks:
        hits = ranks < k
        names += [f"recall@{k}", f"ndcg@{k}"]
        gains += [hits.astype(np.float64), np.where(hits, discounts, 0.0)]
    return [*names, "mrr"], np.stack([*gains, 1 / (ranks + 1)], axis=1)


def _histogram(ranks: np.ndarray, ks: list[int]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, mean gains of each class of ranks, and its size; ranks below some k are classes of their own."""
    distinct, counts = np.unique(ranks, return_counts=True)
    names, gains = _gains(distinct, ks)
    beyond = distinct >= max(ks)
    with np.errstate(divide="ignore"):
        widths = np.floor(np.log(gains[:, -1]) / np.log(0.99))  # infinity where the target was not listed
    classes = np.where(beyond, widths, -1 - np.arange(len(distinct)))
    _, inverse = np.unique(classes, return_inverse=True)
    totals = np.bincount(inverse, counts).astype(np.int64)
    means = [np.bincount(inverse, counts * gain) / totals for gain in gains.T]
    return names, np.stack(means, axis=1), totals


def _listed(recommended: np.ndarray, k: int) -> np.ndarray:
    recommended = np.asarray(recommended)
    if recommended.ndim != 2 or not 1 <= k <= recommended.shape[1]:
        raise ValueError(
            f"Lists have shape {recommended.shape} and k is {k}: give (num_users, at least k) and a positive k."
        )
    first = recommended[:, :k].ravel()
    return first[first >= 0]


def _checked_ranks(ranks: np.ndarray) -> np.ndarray:
    ranks = np.asarray(ranks, dtype=np.float64)
    if ranks.ndim != 1 or not len(ranks):
        raise ValueError(f"Ranks have shape {ranks.shape}: give one rank for each of at least one user.")
    wrong = np.flatnonzero(~(ranks >= 0))  # a NaN is neither
    if len(wrong):
        raise ValueError(f"Rank {ranks[wrong[0]]} of row {wrong[0]} is no rank: ranks count the items above from 0.")
    return ranks


def _checked_ks(ks: Sequence[int]) -> list[int]:
    if not len(ks) or any(k < 1 or k != int(k) for k in ks):
        raise ValueError(f"ks is {ks}: give whole numbers of at least 1, such as (1, 5, 10, 20).")
    return [int(k) for k in ks]
