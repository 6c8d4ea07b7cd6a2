"""
`pipeline("next-item-recommendation")`: histories of raw item ids in, ranked raw ids with titles and scores out.

*Source:* prediction as in Sun et al. (CIKM 2019), section 3.6: [MASK] is appended and its output scores every item.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .ranking import top_k_items
from .scoring import ModelScorer

DEFAULT_BATCH_SIZE = 256
# Histories are sorted by length within so many batches: read in batches of like length they need little padding.
BATCHES_PER_GROUP = 16


class NextItemRecommendationPipeline(Pipeline):
    r"""
    Recommends the next items for histories of raw item ids.

    Call it with one history (a list of ids, oldest first, or a `dict` with `history`), a list of histories, or, to stream
    any number of them in flat memory, a generator or a column of a `datasets.Dataset`.

    Args of a call:
        top_k (`int`, *optional*, defaults to 10): Number of items; fewer come back where fewer are allowed.
        filter_seen (`bool`, *optional*, defaults to `True`): Whether items of the history are left out.
        allowed_items (`list`, *optional*): Only these items are recommended; ids that the model does not know are ignored.
        denied_items (`list`, *optional*): These items are not recommended.
        unknown_items (`str`, *optional*, defaults to `"skip"`):
            `"skip"` leaves items out of a history that the model does not know and counts them; `"error"` refuses them.
        batch_size (`int`, *optional*, defaults to 256):
            Histories scored at a time. Of a stream 16 batches are read ahead and sorted by length; answers keep its order.

    Returns:
        For each history a `dict`: `recommendations`, a list of `dict` with `item_id` (in the type it came in), `title`
        (where there are titles) and `score` (before the softmax), best first; `num_unknown`, the skipped items;
        `is_popularity`, true where no known item was left in the history: then the first items of the vocabulary come, which
        [`prepare`] orders by popularity, and the score is minus the place in it.

    Raises:
        ValueError: If `top_k` is larger than the catalogue or less than 1, if no allowed item is known, or if a history is
            not a list of ids.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    _batch_size: int | None

    def __init__(self, *args, **kwargs):
        kwargs.pop("local_files_only", None)  # was for loading; `pipeline()` passes it on
        super().__init__(*args, **kwargs)
        self._batch_size = self._batch_size or DEFAULT_BATCH_SIZE
        self.scorer = ModelScorer(self.model)

    def _sanitize_parameters(self, unknown_items=None, top_k=None, filter_seen=None, **items):
        preprocess = {} if unknown_items is None else {"unknown_items": unknown_items}
        forward = {
            name: value for name, value in (("top_k", top_k), ("filter_seen", filter_seen)) if value is not None
        }
        for name in ("allowed_items", "denied_items"):
            if items.get(name) is not None:
                forward[name] = self._known_tokens(items[name], name)
        unexpected = set(items) - {"allowed_items", "denied_items"}
        if unexpected:
            raise ValueError(f"There is no parameter {min(unexpected)!r}; see NextItemRecommendationPipeline.")
        return preprocess, forward, {}

    def _known_tokens(self, items: Iterable[Any], name: str) -> np.ndarray:
        items = list(items)
        tokens, _ = self.tokenizer.encode_items(items)
        if not tokens and name == "allowed_items":
            raise ValueError(
                f"None of the {len(items)} allowed_items is in the catalogue; give ids that the model knows."
            )
        return np.unique(np.array(tokens, dtype=np.int64))

    def __call__(self, inputs: Any, *args, **kwargs) -> Any:
        if isinstance(inputs, np.ndarray):
            inputs = inputs.tolist()
        if isinstance(inputs, (list, tuple)):
            if len(inputs) and all(isinstance(entry, (list, tuple, np.ndarray, dict)) for entry in inputs):
                return self._answers([_as_record(entry) for entry in inputs], *args, **kwargs)
            return super().__call__(_as_record(inputs), *args, **kwargs)
        if isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
            raise ValueError(f"A history must be a list of item ids, found {inputs!r}; put the ids in a list.")
        if isinstance(inputs, dict):
            return super().__call__(inputs, *args, **kwargs)
        return self._stream(iter(inputs), *args, **kwargs)

    def _answers(self, records: list[dict[str, list]], *args, **kwargs) -> list[dict[str, Any]]:
        """Answers in the order of the records, found in the order of their lengths."""
        order = sorted(range(len(records)), key=lambda place: len(records[place]["history"]), reverse=True)
        answers: list[dict[str, Any]] = [{}] * len(records)
        found = super().__call__([records[place] for place in order], *args, **kwargs)
        for place, answer in zip(order, found, strict=True):
            answers[place] = answer
        return answers

    def _stream(self, histories: Iterator[Any], *args, **kwargs) -> Iterator[dict[str, Any]]:
        """Answers one by one, a group of histories in memory at a time."""
        group_size = BATCHES_PER_GROUP * (kwargs.get("batch_size") or self._batch_size or DEFAULT_BATCH_SIZE)
        while group := list(itertools.islice(histories, group_size)):
            yield from self._answers([_as_record(entry) for entry in group], *args, **kwargs)

    def get_iterator(self, inputs, num_workers: int, batch_size: int, *parameters) -> Iterator[dict[str, Any]]:
        """Batch by batch; the base class cuts batches into one tensor per value, which takes as long as ranking them."""
        if num_workers:
            return super().get_iterator(inputs, num_workers, batch_size, *parameters)
        return self._answers_by_batch(iter(inputs), batch_size, *parameters[:2])

    def _answers_by_batch(
        self, records: Iterator[dict[str, list]], batch_size: int, preprocess_params: dict, forward_params: dict
    ) -> Iterator[dict[str, Any]]:
        while batch := [
            self.preprocess(record, **preprocess_params) for record in itertools.islice(records, batch_size)
        ]:
            collated = {name: [inputs[name] for inputs in batch] for name in batch[0]}
            yield from self._as_answers(self.forward(collated, **forward_params))

    def preprocess(self, inputs: dict | Sequence, unknown_items: str = "skip") -> dict[str, Any]:
        history = _as_record(inputs)["history"]
        tokens, unknown = self.tokenizer.encode_items(history, unknown=unknown_items)
        return {"tokens": np.array(tokens, dtype=np.int64), "num_unknown": len(unknown)}

    def _forward(
        self, model_inputs: dict, top_k: int = 10, filter_seen: bool = True, allowed_items=None, denied_items=None
    ) -> dict[str, torch.Tensor]:
        histories, num_unknown = model_inputs["tokens"], model_inputs["num_unknown"]
        if isinstance(histories, np.ndarray):  # a batch of one comes as it is
            histories, num_unknown = [histories], [num_unknown]
        num_items = self.scorer.vocab_size - FIRST_ITEM_TOKEN
        if not 1 <= top_k <= num_items:
            raise ValueError(
                f"top_k is {top_k}, but the catalogue has {num_items} items; give between 1 and {num_items}."
            )
        rules = {"vocab_size": self.scorer.vocab_size, "allowed": allowed_items, "denied": denied_items}
        seen = histories if filter_seen else None
        items, scores = top_k_items(self.scorer(None, histories), top_k, seen=seen, **rules)
        is_empty = torch.tensor([len(history) == 0 for history in histories])
        if is_empty.any():
            # Items are numbered by popularity, so minus the token is a popularity score.
            popular, places = top_k_items(lambda start, stop: -torch.arange(start, stop)[None].float(), top_k, **rules)
            items[is_empty], scores[is_empty] = popular.to(items), places.to(scores) + FIRST_ITEM_TOKEN
        return {"items": items, "scores": scores, "num_unknown": torch.tensor(num_unknown), "is_popularity": is_empty}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        return self._as_answers(model_outputs)[0]

    def _as_answers(self, model_outputs: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        """One answer per row of the outputs."""
        rows = [[token for token in row if token >= 0] for row in model_outputs["items"].tolist()]
        item_ids = iter(self.tokenizer.decode_items([token for row in rows for token in row]))
        scores, num_unknown, is_popularity = (
            model_outputs[name].tolist() for name in ("scores", "num_unknown", "is_popularity")
        )
        return [
            {
                "recommendations": [
                    self._entry(item_id, score)
                    for item_id, score in zip(itertools.islice(item_ids, len(row)), of_row, strict=False)
                ],
                "num_unknown": unknown,
                "is_popularity": popular,
            }
            for row, of_row, unknown, popular in zip(rows, scores, num_unknown, is_popularity, strict=True)
        ]

    def _entry(self, item_id: Any, score: float) -> dict[str, Any]:
        title = {} if self.tokenizer.titles is None else {"title": self.tokenizer.title(item_id)}
        return {"item_id": item_id, **title, "score": score}


def _as_record(history: Any) -> dict[str, list]:
    """A history as the `dict` that the base class takes for one input."""
    if isinstance(history, dict):
        if "history" not in history:
            raise ValueError(f"A record needs 'history', found {', '.join(map(repr, history)) or 'nothing'}; add it.")
        history = history["history"]
    if isinstance(history, np.ndarray):
        history = history.tolist()
    if not isinstance(history, (list, tuple)):
        raise ValueError(f"A history must be a list of item ids, found {history!r}; put the ids in a list.")
    return {"history": list(history)}
