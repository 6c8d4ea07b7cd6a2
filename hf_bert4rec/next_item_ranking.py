"""
Recall@k, NDCG@k and MRR as a metric of Hugging Face's `evaluate`: ranked lists or rows of scores against the item that came
next.

`evaluate` copies this file and `metrics.py` beside it to its cache and imports them there, so that it needs nothing else of
the package; see `ranking_metric`, which loads it.

*Source:* as in `metrics.py`; the form of the module is that of https://huggingface.co/docs/evaluate/creating_and_sharing.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from .metrics import ranking_metrics

DEFAULT_KS = (1, 5, 10, 20)
DESCRIPTION = """\
Recall@k, NDCG@k and the mean reciprocal rank of next-item recommendation: one target for each user, ranked among all items
that were listed or scored.
"""
CITATION = """\
@inproceedings{sun2019bert4rec,
  title={BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer},
  author={Sun, Fei and Liu, Jun and Wu, Jian and Pei, Changhua and Lin, Xiao and Ou, Wenwu and Jiang, Peng},
  booktitle={CIKM},
  year={2019}
}
"""
INPUTS = """
Args:
    predictions (`list` of `list`): For each user, with the configuration "lists" (the default), item ids, the best first, as
        text or as integers, each once; with "scores" a row of scores, higher is better, `-inf` for forbidden items.
    references (`list`): For each user the item that came next: its id, or with "scores" its place in the row.
    ks (sequence of `int`, *optional*): Lengths of the list; by default those of 1, 5, 10 and 20 that are not longer than the
        longest prediction.

Returns:
    `dict[str, float]`: `recall@k`, the share of users whose target is among the first k; `ndcg@k`, the mean of
    `1 / log2(rank + 2)` where the rank, counted from 0, is below k, else 0; and `mrr`, the mean of `1 / (rank + 1)`. A
    target that was not listed adds 0; an item whose score ties with the target's counts as half an item above it.

Raises:
    ValueError: If a list names an item twice, a score is NaN, a target is forbidden or outside its row, or a k is longer than
        the longest prediction.

Example:
    >>> metric = NextItemRanking()
    >>> metric.compute(predictions=[["b", "a"], ["a", "c"]], references=["a", "x"], ks=(1, 2))
    {'recall@1': 0.0, 'ndcg@1': 0.0, 'recall@2': 0.5, 'ndcg@2': 0.315..., 'mrr': 0.25}
    >>> metric = NextItemRanking("scores")
    >>> metric.compute(predictions=[[0.1, 0.7, 0.2]], references=[2], ks=(1, 2))
    {'recall@1': 0.0, 'ndcg@1': 0.0, 'recall@2': 1.0, 'ndcg@2': 0.630..., 'mrr': 0.5}
"""


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS)
class NextItemRanking(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        if self.config_name in ("default", "lists"):
            pairs = [
                (datasets.Value("string"), datasets.Value("string")),
                (datasets.Value("int64"), datasets.Value("int64")),
            ]
        elif self.config_name == "scores":
            pairs = [(datasets.Value("float64"), datasets.Value("int64"))]
        else:
            raise ValueError(f"There is no configuration {self.config_name!r}; choose 'lists' or 'scores'.")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=[
                datasets.Features({"predictions": datasets.Sequence(entry), "references": target})
                for entry, target in pairs
            ],
            license="apache-2.0",
            reference_urls=["https://arxiv.org/abs/1904.06690"],
        )

    def _compute(self, predictions: list, references: list, ks: Any = None) -> dict[str, float]:
        rank = _rank_in_scores if self.config_name == "scores" else _rank_in_list
        ranks = [rank(*pair, row) for row, pair in enumerate(zip(predictions, references, strict=True))]
        longest = max(map(len, predictions), default=0)
        if ks is None:
            ks = [k for k in DEFAULT_KS if k <= longest] or [1]
        if max(ks, default=0) > longest:
            raise ValueError(
                f"k is {max(ks)}, but no prediction is longer than {longest}; give a smaller k or longer ones."
            )
        return ranking_metrics(np.array(ranks), ks)


def _rank_in_list(items: list, target: Any, row: int) -> float:
    if len(set(items)) < len(items):
        found = next(item for place, item in enumerate(items) if item in items[:place])
        raise ValueError(
            f"Row {row} lists {found!r} twice; give each item once or, for rows of scores, the configuration 'scores'."
        )
    return items.index(target) if target in items else np.inf


def _rank_in_scores(scores: list, target: int, row: int) -> float:
    """As `ranking.target_ranks`: the items above, an item that ties counting half."""
    if not 0 <= target < len(scores):
        raise ValueError(
            f"The target of row {row} is {target}, but the row has {len(scores)} scores; give its place from 0."
        )
    row_scores, own = np.array(scores), scores[target]
    if np.isnan(row_scores).any():
        raise ValueError(f"A score of row {row} is NaN, so nothing can be ranked; look for what made it.")
    if own == -np.inf:
        raise ValueError(f"The target of row {row}, {target}, is forbidden (it scores -inf) and so has no rank.")
    return ((row_scores > own).sum() + (row_scores >= own).sum() - 1) / 2
