"""
Any scorer over a split in flat memory, and the same ranks inside the stock `Trainer`.

*Source:* that of the protocols, see `protocols.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .metrics import (
    bootstrap_intervals,
    coverage,
    difference_intervals,
    metrics_by_history_length,
    metrics_by_popularity,
    note_places,
    ranking_metrics,
    unlisted,
)
from .protocols import Protocol, find_protocol
from .randomness import uniform
from .ranking import ScoreItems, Scorer, rank_targets, top_k_items
from .sharded_items import holds_later_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .sequences import EvaluationSequences

CUTOFFS = (1, 5, 10, 20)


def _check_numbers(batch_size: int, seed: int):
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; give 0 or more.")


def evaluate(
    scorers: Mapping[str, Scorer],
    sequences: EvaluationSequences,
    item_counts: np.ndarray,
    *,
    protocol: str = "full-catalogue",
    batch_size: int = 256,
    seed: int = 0,
    with_coverage: bool = False,
) -> dict[str, Any]:
    r"""
    Metrics of scorers side by side: the same users, targets and rivals for all. Under several processes each takes its
    share of the users and all return the whole result; where a model's items are sharded all score every user together.

    Args:
        scorers (mapping of name to [`ranking.Scorer`]): What to evaluate.
        sequences ([`EvaluationSequences`]): Histories and targets of one split.
        item_counts (`np.ndarray` of shape `(vocab_size,)`): Training events of each token.
        protocol (`str`, *optional*, defaults to `"full-catalogue"`): A name in [`protocols.PROTOCOLS`].
        batch_size (`int`, *optional*, defaults to 256): Users scored at a time.
        seed (`int`, *optional*, defaults to 0): Fixes drawn negatives and the bootstrap.
        with_coverage (`bool`, *optional*, defaults to `False`):
            Whether each scorer also gets its `coverage@k` ([`metrics.coverage`]) over the lists that it would show these users:
            what the protocol forbids is left out, the target is not known, and of equal scores the lower token comes first.
            It takes a search for the best items beside the ranks: up to two thirds of the time again on a large catalogue.

    Returns:
        `dict`: `protocol`, `split`, `seed`, `num_users`, `cold_targets` (share of targets that no training event holds), where
        rivals are drawn `fewest_negatives` and `mean_negatives` of a user, and for each scorer its metrics (`ndcg@10` ...)
        with 95 % bootstrap `intervals` over users; from the second scorer on also `first_minus_this`: 95 % intervals of how
        much better the first scorer is, user by user; where items unknown to training are missed also `warm`, the metrics
        over the other targets alone. Last `by_popularity`, see
        [`metrics.metrics_by_popularity`], and `by_history_length`, see [`metrics.metrics_by_history_length`].

    Raises:
        ValueError: If the protocol is unknown or needs other data, or draws its rivals, so that there are no lists to cover
            the catalogue with; if `batch_size` or `seed` is too low a number.
    """
    _check_numbers(batch_size, seed)
    chosen = find_protocol(protocol, sequences.data)
    if with_coverage and chosen.num_negatives is not None:
        raise ValueError(
            f"Protocol {protocol} lists {chosen.candidates}, which says nothing of the catalogue: leave coverage out, or "
            "choose full-catalogue."
        )
    state = PartialState()
    together = any(getattr(scorer, "is_sharded", False) for scorer in scorers.values())
    first, step = (0, 1) if together else (state.process_index, state.num_processes)
    found = _Found({name: [] for name in scorers})
    if with_coverage:
        found.best_places = {name: unlisted(scorer.vocab_size) for name, scorer in scorers.items()}
    is_known = item_counts > 0 if chosen.only_known else None
    for start in range(first * batch_size, len(sequences), step * batch_size):
        rows = [sequences[index] for index in range(start, min(start + batch_size, len(sequences)))]
        found.target_counts.append(item_counts[[row["target"] for row in rows]])
        found.lengths.append(np.array([len(row["input_ids"]) for row in rows]))
        rules = _rivals(chosen, rows, item_counts, seed)
        found.num_negatives.append(np.array([len(tokens) for tokens in rules.get("candidates", ())]))
        for name, scorer in scorers.items():
            found.note(name, scorer, rows, rules, is_known)
    facts = {"protocol": protocol, "split": sequences.split, "seed": seed, "num_users": len(sequences)}
    return facts | _summary([found] if together else gather_object([found]), seed, chosen.only_known)


@dataclass
class _Found:
    """What one process finds about its users, batch by batch; best places of tokens only where coverage is asked for."""

    ranks: dict[str, list[np.ndarray]]
    target_counts: list[np.ndarray] = field(default_factory=list)
    lengths: list[np.ndarray] = field(default_factory=list)
    num_negatives: list[np.ndarray] = field(default_factory=list)
    best_places: dict[str, np.ndarray] = field(default_factory=dict)

    def note(self, name: str, scorer: Scorer, rows: list[dict], rules: dict, is_known: np.ndarray | None):
        """Ranks of a batch's targets; where only known items are listed, infinity for those that are not."""
        score_items = scorer([row["row"] for row in rows], [row["input_ids"] for row in rows])
        targets = torch.tensor([row["target"] for row in rows])
        options = {"vocab_size": scorer.vocab_size, "first_item": FIRST_ITEM_TOKEN} | rules
        if is_known is not None:
            score_items = _known_items(score_items, is_known)
        ranks = rank_targets(score_items, targets, **options).cpu().numpy()
        self.ranks[name].append(ranks if is_known is None else np.where(is_known[targets.numpy()], ranks, np.inf))
        if name in self.best_places:
            k = min(max(CUTOFFS), scorer.vocab_size - FIRST_ITEM_TOKEN)
            note_places(self.best_places[name], top_k_items(score_items, k, **options)[0].cpu().numpy())


def _summary(parts: list[_Found], seed: int, only_known: bool) -> dict[str, Any]:
    """What all processes found, as figures."""

    def joined(of_parts: Iterable[list[np.ndarray]]) -> np.ndarray:
        return np.concatenate([*(batch for batches in of_parts for batch in batches), []])

    ranks = {name: joined(part.ranks[name] for part in parts) for name in parts[0].ranks}
    target_counts, lengths = joined(part.target_counts for part in parts), joined(part.lengths for part in parts)
    metrics = _side_by_side(ranks, seed, only_known)
    for name in parts[0].best_places:
        best_places = np.minimum.reduce([part.best_places[name] for part in parts])
        metrics[name] |= coverage(best_places, len(best_places) - FIRST_ITEM_TOKEN, CUTOFFS)
    num_negatives = joined(part.num_negatives for part in parts)
    drawn: dict[str, Any] = {}
    if len(num_negatives):
        drawn = {"fewest_negatives": int(num_negatives.min()), "mean_negatives": float(num_negatives.mean())}
    return {
        "cold_targets": int((target_counts == 0).sum()) / len(target_counts),
        **drawn,
        **metrics,
        "by_popularity": metrics_by_popularity(ranks, target_counts, seed=seed),
        "by_history_length": metrics_by_history_length(ranks, lengths, seed=seed),
    }


def _known_items(score_items: ScoreItems, is_known: np.ndarray) -> ScoreItems:
    """The same scores, but for items that are not known: those are below all others."""
    is_unknown = torch.from_numpy(~is_known)

    def score_known(start: int, stop: int) -> torch.Tensor:
        scores = score_items(start, stop)
        return scores.masked_fill(is_unknown[start:stop].to(scores.device), -torch.inf)

    return score_known


def _side_by_side(ranks: dict[str, np.ndarray], seed: int, only_known: bool) -> dict[str, dict[str, Any]]:
    """
    Metrics of each scorer with their intervals, and from the second on with those of the first scorer's lead; where only
    known items are listed also those of the known targets, which alone have a finite rank.
    """
    first: Any = next(iter(ranks.values()), None)
    result: dict[str, dict[str, Any]] = {}
    for name, found in ranks.items():
        intervals = bootstrap_intervals(found, CUTOFFS, seed=seed)
        result[name] = ranking_metrics(found, CUTOFFS) | {"intervals": intervals}
        if found is not first:
            result[name]["first_minus_this"] = difference_intervals(first, found, CUTOFFS)
        if only_known:
            is_known = np.isfinite(found)
            result[name]["warm"] = ranking_metrics(found[is_known], CUTOFFS) if is_known.any() else {}
    return result


def _rivals(protocol: Protocol, rows: list[dict], item_counts: np.ndarray, seed: int) -> dict:
    """The arguments of `rank_targets` that say which items compete."""
    histories = [row["input_ids"] for row in rows]
    if protocol.num_negatives is None:
        return {"seen": histories if protocol.filters_seen else None}
    known = [np.append(row["input_ids"], row["target"]) for row in rows]
    users = np.array([row["row"] for row in rows])
    weights = item_counts.astype(np.float64) if protocol.by_popularity else np.ones(len(item_counts))
    weights[:FIRST_ITEM_TOKEN] = 0
    return {"candidates": weighted_negatives(users, known, weights, protocol.num_negatives, seed=seed)}


def weighted_negatives(
    users: np.ndarray, known: list[np.ndarray], weights: np.ndarray, num_negatives: int, *, seed: int = 0
) -> list[np.ndarray]:
    r"""
    Distinct items that a user does not know, drawn one after another with probability proportional to their weight among
    those left; a function of (seed, user) alone.

    Args:
        users (`np.ndarray` of shape `(batch_size,)`): Indices of the users.
        known (list of integer `np.ndarray`): Tokens that may not be drawn, per user.
        weights (`np.ndarray` of shape `(vocab_size,)`): Weight of each token; 0 is never drawn.
        num_negatives (`int`): How many; fewer where fewer unknown items have a weight.
        seed (`int`, *optional*, defaults to 0): Seed of the draws.

    Returns:
        list of `np.ndarray`: tokens, per user, in the order in which they were drawn.
    """
    edges = np.cumsum(weights) / weights.sum()
    num_left = [int((weights > 0).sum() - (weights[np.unique(tokens)] > 0).sum()) for tokens in known]
    wanted = [min(num_negatives, left) for left in num_left]
    negatives: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(users)
    # Sampling with replacement and dropping repeats and known items is sampling without replacement, one after another.
    num_draws, open_rows = 2 * num_negatives, np.arange(len(users))
    while len(open_rows):
        drawn = uniform("negatives", seed, users[open_rows][:, None], np.arange(num_draws))
        tokens = np.searchsorted(edges, drawn, side="right").clip(max=len(weights) - 1)
        still_open = []
        for row, draws in zip(open_rows, tokens, strict=True):
            _, first = np.unique(draws, return_index=True)
            distinct = draws[np.sort(first)]
            distinct = distinct[~np.isin(distinct, known[row]) & (weights[distinct] > 0)]
            negatives[row] = distinct[: wanted[row]]
            if len(distinct) < wanted[row]:
                still_open.append(row)
        # Where nearly all weight is on known items exponential clocks draw what is still missing, by the same law.
        if num_draws > 64 * num_negatives:
            for row in still_open:
                found = negatives[row]
                taken = np.append(known[row], found)
                rest = _by_clocks(users[row], taken, weights, wanted[row] - len(found), seed)
                negatives[row] = np.append(found, rest)
            break
        num_draws, open_rows = num_draws * 4, np.array(still_open, dtype=np.int64)
    return negatives


def _by_clocks(user: int, known: np.ndarray, weights: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """The `wanted` tokens whose exponential clocks of rate `weights` ring first."""
    with np.errstate(divide="ignore"):
        rings = -np.log1p(-uniform("negative clocks", seed, user, np.arange(len(weights)))) / weights
    rings[known] = np.inf
    return np.argsort(rings, kind="stable")[:wanted]


class TrainerRanking:
    r"""
    Ranks the whole catalogue inside the stock `Trainer` in flat memory: give `preprocess_logits_for_metrics` and
    `compute_metrics` of one instance to `Trainer`, with `batch_eval_metrics=True`,
    `label_names=["labels", "seen_items"]` and the batches of [`DataCollatorForCloze`] for features with a `target`.

    Args:
        model ([`Bert4RecForMaskedLM`], *optional*):
            The model, needed where its items are sharded over processes: all of them then rank the same users, and
            `Trainer` gathers each user from each process, but those of a last, smaller batch from one. (The `eval_loss`
            that it averages itself counts these for half or less.)
    """

    def __init__(self, model: PreTrainedModel | None = None):
        self._ranks: list[np.ndarray] = []
        self._is_copy = model is not None and holds_later_rows(model.get_input_embeddings().weight)

    def preprocess_logits_for_metrics(self, logits: torch.Tensor, labels: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Scores of shape `(batch_size, vocab_size)` -> ranks of shape `(batch_size,)`; seen items are forbidden."""
        next_items, seen_items = labels
        # one label per row, wherever padding has put it
        targets = next_items.masked_fill(next_items == -100, 0).amax(1)
        seen = [items[items != -100] for items in seen_items.cpu().numpy()]
        ranks = rank_targets(
            lambda start, stop: logits[:, start:stop],
            targets,
            vocab_size=logits.shape[1],
            seen=seen,
            first_item=FIRST_ITEM_TOKEN,
        )
        return torch.full_like(ranks, torch.nan) if self._is_copy else ranks.to(logits.device)

    def compute_metrics(self, prediction, compute_result: bool) -> dict[str, float]:
        """Collects the ranks of each batch; after the last one, the metrics over all users."""
        self._ranks.append(np.asarray(prediction.predictions.cpu(), dtype=np.float64).reshape(-1))
        if not compute_result:
            return {}
        ranks, self._ranks = np.concatenate(self._ranks), []
        return ranking_metrics(ranks[~np.isnan(ranks)], CUTOFFS)
