"""
`pipeline("next-item-recommendation")`: histories of raw item ids in, ranked raw ids with titles and scores out; and the
items that are like an item.

*Source:* prediction as in Sun et al. (CIKM 2019), section 3.6: [MASK] is appended and its output scores every item.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import Pipeline

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .ranking import Scorer, top_k_items
from .scoring import ItemSimilarity, ModelScorer

DEFAULT_BATCH_SIZE, DEFAULT_TOP_K = 256, 10
# Histories are sorted by length within so many batches: read in batches of like length they need little padding.
BATCHES_PER_GROUP = 16


class Query(NamedTuple):
    """One history in tokens and what is asked of it; [`NextItemRecommendationPipeline.queries`] makes them."""

    tokens: np.ndarray
    num_unknown: int
    top_k: int
    filter_seen: bool = True
    allowed: np.ndarray | None = None
    denied: np.ndarray | None = None


class NextItemRecommendationPipeline(Pipeline):
    r"""
    Recommends the next items for histories of raw item ids; [`~NextItemRecommendationPipeline.similar_items`] gives the items
    that are like an item.

    Call it with one history (ids, oldest first: a list, array, tensor or series, or a `dict` with `history`), a list of
    histories, or, to stream any number of them in flat memory, a generator, a `datasets.Dataset` with a column `history`,
    or a column of one.

    Args of a call:
        top_k (`int`, *optional*, defaults to 10, or to the catalogue's size where that is less):
            Number of items; fewer come back where fewer are allowed.
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
        ValueError: If `top_k` is larger than the catalogue or less than 1, if no allowed item is known, or if a history or
            another option is not what it should be.
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
        self.scorer: Scorer = ModelScorer(self.model)

    def _sanitize_parameters(self, unknown_items=None, top_k=None, filter_seen=None, **items):
        if unknown_items not in (None, "skip", "error"):
            raise ValueError(f"unknown_items is {unknown_items!r}; choose 'skip' or 'error'.")
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
        items = _as_list(items)
        if not _is_collection(items) or isinstance(items, Mapping):
            raise ValueError(f"{name} must be a list of item ids, found {items!r:.60}; put the ids in a list.")
        items = list(items)
        try:
            tokens, _ = self.tokenizer.encode_items(items)
        except ValueError as error:
            raise ValueError(f"{name} {str(error).removeprefix('a history ')}") from None
        if not tokens and name == "allowed_items":
            raise ValueError(
                f"None of the {len(items)} allowed_items is in the catalogue; give ids that the model knows."
            )
        return np.unique(np.array(tokens, dtype=np.int64))

    def __call__(self, inputs: Any, *args, **kwargs) -> Any:
        _check_batch_size(kwargs.get("batch_size", self._batch_size))
        histories = _as_list(_history_of(inputs))
        if isinstance(histories, (list, tuple)):
            if any(map(_is_collection, histories)):
                return self._answers([_as_record(history) for history in histories], *args, **kwargs)
            return super().__call__(_as_record(histories), *args, **kwargs)
        if _is_collection(histories) and not isinstance(histories, (set, frozenset)):
            return self._stream(_one_by_one(histories), *args, **kwargs)
        raise ValueError(f"A history must be a list of item ids, found {histories!r:.60}; put the ids in a list.")

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

    def similar_items(
        self,
        item_ids: Any,
        *,
        top_k: int | None = None,
        allowed_items: Iterable[Any] | None = None,
        denied_items: Iterable[Any] | None = None,
        unknown_items: str = "skip",
        batch_size: int | None = None,
    ) -> Any:
        r"""
        The items whose embeddings point in the same direction as an item's own: the highest cosines, whatever is popular.

        Args:
            item_ids (`str`, `int`, `list` or iterator): One raw id, several, or, to stream any number of them, an iterator.
            top_k (`int`, *optional*, defaults to 10 or less, as of a call): Number of items; the item itself is never listed.
            allowed_items (`list`, *optional*): Only these items are listed.
            denied_items (`list`, *optional*): These items are not listed.
            unknown_items (`str`, *optional*, defaults to `"skip"`):
                `"skip"` gives an empty list for an item that the model does not know; `"error"` refuses it.
            batch_size (`int`, *optional*, defaults to 256): Items compared with the catalogue at a time.

        Returns:
            For each id a `dict`: `item_id` as it was given, `title` (where there are titles), `similar_items`, a list of
            `dict` with `item_id`, `title` and `score` (the cosine), best first, and `is_unknown`. An iterator of them for
            an iterator.

        Raises:
            ValueError: If an option or an id is not what it should be, see the class.

        Example:
            >>> from transformers import pipeline
            >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer
            >>> model, tokenizer = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=5)), Bert4RecTokenizer.from_items(["a", "b"])
            >>> recommend = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)
            >>> [entry["item_id"] for entry in recommend.similar_items("a", top_k=1)["similar_items"]]
            ['b']
        """
        _check_batch_size(batch_size)
        top_k = self._checked_top_k(top_k)
        options = {"allowed_items": allowed_items, "denied_items": denied_items, "unknown_items": unknown_items}
        rules = self._sanitize_parameters(**options)[1]
        asked = _as_list(item_ids)
        if isinstance(asked, (str, Integral)):
            return next(self._similar(iter([asked]), 1, top_k, unknown_items, rules))
        if not _is_collection(asked) or isinstance(asked, Mapping):
            raise ValueError(
                f"item_ids must be an item id or a list of them, found {item_ids!r:.60}; put them in a list."
            )
        answers = self._similar(
            _one_by_one(asked), batch_size or self._batch_size or DEFAULT_BATCH_SIZE, top_k, unknown_items, rules
        )
        return answers if isinstance(asked, Iterator) else list(answers)

    def _similar(
        self, item_ids: Iterator[Any], batch_size: int, top_k: int, unknown_items: str, rules: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Answers one by one, a batch of items in memory at a time."""
        scorer = ItemSimilarity(self.model)
        rules = {name.removesuffix("_items"): tokens for name, tokens in rules.items()}
        while batch := list(itertools.islice(item_ids, batch_size)):
            known = [self._token_of(item_id, unknown_items) for item_id in batch]
            found = top_k_items(scorer(None, known), top_k, vocab_size=scorer.vocab_size, seen=known, **rules)
            for item_id, token, entries in zip(batch, known, self._entries(*found), strict=True):
                is_unknown = len(token) == 0
                answer = {"similar_items": [] if is_unknown else entries, "is_unknown": is_unknown}
                yield {"item_id": item_id, **self._title(item_id), **answer}

    def _token_of(self, item_id: Any, unknown_items: str) -> np.ndarray:
        """The token of an item, none where it is unknown."""
        try:
            return np.array(self.tokenizer.encode_items([item_id], unknown=unknown_items)[0], dtype=np.int64)
        except ValueError as error:
            raise ValueError(f"item_ids {str(error).removeprefix('a history ')}") from None

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

    def preprocess(self, inputs: Any, unknown_items: str = "skip") -> dict[str, Any]:
        history = _as_record(inputs)["history"]
        tokens, unknown = self.tokenizer.encode_items(history, unknown=unknown_items)
        return {"tokens": np.array(tokens, dtype=np.int64), "num_unknown": len(unknown)}

    def _forward(
        self, model_inputs: dict, top_k=None, filter_seen: bool = True, allowed_items=None, denied_items=None
    ) -> dict[str, torch.Tensor]:
        histories, num_unknown = model_inputs["tokens"], model_inputs["num_unknown"]
        if isinstance(histories, np.ndarray):  # a batch of one comes as it is
            histories, num_unknown = [histories], [num_unknown]
        top_k = self._checked_top_k(top_k)
        rules = {"seen": histories if filter_seen else None, "allowed": allowed_items, "denied": denied_items}
        return self._ranked(histories, top_k, **rules) | {"num_unknown": torch.tensor(num_unknown)}

    def _ranked(self, histories: list[np.ndarray], top_k: int, **rules: Any) -> dict[str, torch.Tensor]:
        """Tokens and scores of the best items of each row, by popularity where the history is empty."""
        is_empty = torch.tensor([len(history) == 0 for history in histories])
        score_items = self.scorer(None, histories)

        def scores_or_popularity(start: int, stop: int) -> torch.Tensor:
            scores = score_items(start, stop)
            if is_empty.any():
                # Items are numbered by popularity, so minus the token is a popularity score.
                popularity = -torch.arange(start, stop, dtype=scores.dtype, device=scores.device)
                scores = torch.where(is_empty.to(scores.device)[:, None], popularity, scores)
            return scores

        items, scores = top_k_items(scores_or_popularity, top_k, vocab_size=self.scorer.vocab_size, **rules)
        scores[is_empty] += FIRST_ITEM_TOKEN  # minus the place
        return {"items": items, "scores": scores, "is_popularity": is_empty}

    def queries(self, histories: Sequence[Any], **options: Any) -> list[Query]:
        r"""
        Check histories and what is asked of them, and turn ids into tokens.

        Args:
            histories (sequence): Of histories, each a list of ids.
            options: Those of a call: `top_k`, `filter_seen`, `allowed_items`, `denied_items`, `unknown_items`.

        Returns:
            `list[Query]`: one per history, for [`~NextItemRecommendationPipeline.answer`].

        Raises:
            ValueError: As of a call.
        """
        preprocess, forward, _ = self._sanitize_parameters(**options)
        for name in {"allowed_items", "denied_items"} & set(forward):
            forward[name.removesuffix("_items")] = forward.pop(name)
        forward["top_k"] = self._checked_top_k(forward.get("top_k"))
        return [Query(**self.preprocess(history, **preprocess), **forward) for history in histories]

    def answer(self, queries: Sequence[Query]) -> list[dict[str, Any]]:
        """Answers as of a call. Histories are scored together, whatever is asked of each; the caller bounds their number."""
        answers: list[dict[str, Any]] = [{}] * len(queries)
        # Of the rows of a batch all have a list of the items that are allowed, or none has.
        for is_limited in (False, True):
            places = [place for place, query in enumerate(queries) if (query.allowed is not None) == is_limited]
            places.sort(key=lambda place: len(queries[place].tokens), reverse=True)
            if places:
                found = self._answer_batch([queries[place] for place in places])
                for place, answer in zip(places, found, strict=True):
                    answers[place] = answer
        return answers

    def _answer_batch(self, queries: list[Query]) -> list[dict[str, Any]]:
        none = np.empty(0, np.int64)
        top_k = torch.tensor([query.top_k for query in queries])
        outputs = self._ranked(
            [query.tokens for query in queries],
            int(top_k.max()),
            seen=[query.tokens if query.filter_seen else none for query in queries],
            allowed=None if queries[0].allowed is None else [query.allowed for query in queries],
            denied=[none if query.denied is None else query.denied for query in queries],
        )
        is_beyond = torch.arange(outputs["items"].shape[1]) >= top_k[:, None]
        outputs["items"].masked_fill_(is_beyond.to(outputs["items"].device), -1)
        return self._as_answers(outputs | {"num_unknown": torch.tensor([query.num_unknown for query in queries])})

    def _checked_top_k(self, top_k: Any) -> int:
        """What was given, or as many as are shown where nothing was."""
        num_items = self.scorer.vocab_size - FIRST_ITEM_TOKEN
        if top_k is None:
            return min(DEFAULT_TOP_K, num_items)
        if not _is_whole(top_k) or not 1 <= top_k <= num_items:
            raise ValueError(
                f"top_k is {top_k!r}, but the catalogue has {num_items} items; give between 1 and {num_items}."
            )
        return top_k

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> dict[str, Any]:
        return self._as_answers(model_outputs)[0]

    def _as_answers(self, model_outputs: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        """One answer per row of the outputs."""
        entries = self._entries(model_outputs["items"], model_outputs["scores"])
        num_unknown, is_popularity = (model_outputs[name].tolist() for name in ("num_unknown", "is_popularity"))
        return [
            {"recommendations": of_row, "num_unknown": unknown, "is_popularity": popular}
            for of_row, unknown, popular in zip(entries, num_unknown, is_popularity, strict=True)
        ]

    def _entries(self, items: torch.Tensor, scores: torch.Tensor) -> list[list[dict[str, Any]]]:
        """What `top_k_items` found, by raw id, less the empty tails."""
        rows = [[token for token in row if token >= 0] for row in items.tolist()]
        item_ids = iter(self.tokenizer.decode_items([token for row in rows for token in row]))
        return [
            [
                {"item_id": item_id, **self._title(item_id), "score": score}
                for item_id, score in zip(itertools.islice(item_ids, len(row)), of_row, strict=False)
            ]
            for row, of_row in zip(rows, scores.tolist(), strict=True)
        ]

    def _title(self, item_id: Any) -> dict[str, str | None]:
        return {} if self.tokenizer.titles is None else {"title": self.tokenizer.title(item_id)}


def _as_record(history: Any) -> dict[str, list]:
    """A history as the `dict` that the base class takes for one input."""
    history = _as_list(_history_of(history))
    if not isinstance(history, (list, tuple)):
        raise ValueError(f"A history must be a list of item ids, found {history!r:.60}; put the ids in a list.")
    return {"history": list(history)}


def _history_of(record: Any) -> Any:
    """What a record holds; anything else as it is."""
    if not isinstance(record, Mapping):
        return record
    if "history" not in record:
        raise ValueError(f"A record needs 'history', found {', '.join(map(repr, record)) or 'nothing'}; add it.")
    return record["history"]


def _as_list(values: Any) -> Any:
    """A list for arrays, tensors, series and Arrow's arrays and scalars; anything else as it is."""
    method = next((name for name in ("to_pylist", "as_py", "tolist") if hasattr(values, name)), None)
    return values if method is None else getattr(values, method)()


def _is_collection(values: Any) -> bool:
    # Data sets of torch have `__getitem__` alone; so do single numbers of numpy, which are none.
    is_iterable = isinstance(values, Iterable) or hasattr(values, "__getitem__")
    return is_iterable and not isinstance(values, (str, bytes, np.generic))


def _one_by_one(values: Any) -> Iterator[Any]:
    return iter(values) if isinstance(values, Iterable) else (values[place] for place in range(len(values)))


def _is_whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _check_batch_size(batch_size: Any):
    if batch_size is not None and (not _is_whole(batch_size) or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}; give a whole number of at least 1.")
