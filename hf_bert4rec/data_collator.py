"""
Sequences -> batches: the item cloze for training, a [MASK] at the end for ranking.

*Source:* Sun et al. (CIKM 2019), section 3.6 (cloze; samples that hide only the last item); Devlin et al. (2019) for the
80/10/10 replacement, which BERT4Rec's authors do not use.

Samples can also be read causally (SASRec, Kang & McAuley, ICDM 2018): nothing is hidden, every item predicts the next.

*Differences:* exactly the share rho of each sequence is hidden (rounded at random so that it is met on average), where
`DataCollatorForLanguageModeling` hides each token by chance; random replacements are items only. Masks are functions of
(seed, epoch, row, position), never of a global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .randomness import uniform


@dataclass
class DataCollatorForCloze:
    r"""
    Pads to the longest sequence of the batch and hides items.

    Features are dicts with `input_ids` (tokens, oldest first). With `row` and `epoch` beside them, as
    [`TrainingSequences`] gives, masks depend on these alone; without, on the number of the call, so that they are fresh
    each time. Features with a `target` become a batch for ranking instead: a [MASK] follows the newest events.

    Args:
        mlm_probability (`float`, *optional*, defaults to 0.2): Share of items to hide, at least one (the paper's rho).
        last_item_probability (`float`, *optional*, defaults to 0.1): Share of samples that hide only the last item.
        causal_probability (`float`, *optional*, defaults to 0.0):
            Share of samples that hide nothing and predict every item, but the first, from those before it. Above 0 a batch
            says which rows these are, in `causal_rows`.
        mask_replace_prob (`float`, *optional*, defaults to 1.0): Share of hidden items that become [MASK] (BERT: 0.8).
        random_replace_prob (`float`, *optional*, defaults to 0.0):
            Share of hidden items that become a random item (BERT: 0.1); the rest stays as it is.
        max_length (`int`, *optional*): Longer sequences keep their newest events, [MASK] included.
        vocab_size (`int`, *optional*): Needed to draw random items.
        pad_token_id, mask_token_id (`int`, *optional*, default to 0 and 1): Special tokens.
        padding_side (`str`, *optional*, defaults to `"right"`): `"left"` or `"right"`.
        seed (`int`, *optional*, defaults to 0): Seed of the masks.

    Raises:
        ValueError: If a share is outside 0..1, the shares of replacements exceed 1, or random items are asked for
            without `vocab_size`.

    Example:
        >>> collator = DataCollatorForCloze(last_item_probability=1.0)
        >>> batch = collator([{"input_ids": [7, 9, 4]}, {"input_ids": [5, 6]}])
        >>> batch["input_ids"].tolist(), batch["labels"].tolist()
        ([[7, 9, 1], [5, 1, 0]], [[-100, -100, 4], [-100, 6, -100]])
    """

    mlm_probability: float = 0.2
    last_item_probability: float = 0.1
    causal_probability: float = 0.0
    mask_replace_prob: float = 1.0
    random_replace_prob: float = 0.0
    max_length: int | None = None
    vocab_size: int | None = None
    pad_token_id: int = 0
    mask_token_id: int = 1
    padding_side: str = "right"
    seed: int = 0
    _num_calls: int = field(default=0, init=False, repr=False)

    def __post_init__(self):
        shares = ("mlm_probability", "last_item_probability", "causal_probability")
        for name in (*shares, "mask_replace_prob", "random_replace_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a share between 0 and 1.")
        if self.mask_replace_prob + self.random_replace_prob > 1:
            total = self.mask_replace_prob + self.random_replace_prob
            raise ValueError(f"mask_replace_prob and random_replace_prob add up to {total}; give at most 1 together.")
        if self.random_replace_prob > 0 and (self.vocab_size is None or self.vocab_size <= FIRST_ITEM_TOKEN):
            raise ValueError(
                f"random_replace_prob needs items to draw from, vocab_size is {self.vocab_size}; give that of the model."
            )
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length is {self.max_length}; give at least 1.")
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is {self.padding_side!r}; choose 'left' or 'right'.")

    def __call__(self, features: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Dispatch: features with a `target` are ranked, the others trained on."""
        if "target" in features[0]:
            return self.ranking_batch([f["input_ids"] for f in features], [f["target"] for f in features])
        return self.cloze_batch(features)

    def cloze_batch(self, features: Sequence[dict]) -> dict[str, torch.Tensor]:
        r"""
        Args:
            features (list of `dict`): `input_ids`, and `row` and `epoch` where masks must be reproducible.

        Returns:
            `dict` of `input_ids`, `attention_mask`, `labels`, each a `torch.LongTensor` of shape `(batch_size, longest)`;
            labels are -100 but at items to predict. An empty sequence is a row of padding without a label. With a
            `causal_probability` above 0 also `causal_rows`, a `torch.BoolTensor` of shape `(batch_size,)`.
        """
        sequences = [self._newest(f["input_ids"], self.max_length) for f in features]
        tokens, is_event = self._padded(sequences)  # (batch, longest)
        rows, epoch = self._counters(features)
        lengths = is_event.sum(1)
        hidden = self._hidden_positions(is_event, lengths, rows, epoch)
        only_last = uniform("last item", self.seed, epoch, rows) < self.last_item_probability
        is_last = is_event & (self._position(is_event) == lengths[:, None] - 1)
        hidden = np.where(only_last[:, None], is_last, hidden)
        labels = np.where(hidden, tokens, -100)
        replaced = self._replacements(tokens, is_event, rows, epoch)
        # A sample of the last item alone is the question asked at test: always a [MASK].
        replaced = np.where(only_last[:, None], self.mask_token_id, replaced)
        inputs = np.where(hidden, replaced, tokens)
        if not self.causal_probability:
            return _tensors(input_ids=inputs, attention_mask=is_event, labels=labels)
        is_causal = uniform("causal", self.seed, epoch, rows) < self.causal_probability  # (batch,)
        has_previous = is_event & (self._position(is_event) > 0)
        labels = np.where(is_causal[:, None], np.where(has_previous, tokens, -100), labels)
        inputs = np.where(is_causal[:, None], tokens, inputs)
        batch = _tensors(input_ids=inputs, attention_mask=is_event, labels=labels)
        return batch | {"causal_rows": torch.from_numpy(is_causal)}

    def ranking_batch(self, histories: Sequence, targets: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        r"""
        The newest events of each history with a [MASK] behind them.

        Args:
            histories (list of integer sequences): Tokens of each history, oldest first; may be empty.
            targets (list of `int`, *optional*): Token that came next.

        Returns:
            `dict` of `input_ids`, `attention_mask` (`torch.LongTensor` of shape `(batch_size, longest)`) and
            `logits_to_keep` (`torch.BoolTensor`, true at [MASK]); with targets also `labels`, -100 but at [MASK], and
            `seen_items` (`(batch_size, most items)`): the whole history, padded with -100.
        """
        kept = None if self.max_length is None else self.max_length - 1
        windows = [np.append(self._newest(history, kept), self.mask_token_id) for history in histories]
        tokens, is_event = self._padded(windows)
        is_mask = is_event & (self._position(is_event) == is_event.sum(1)[:, None] - 1)
        batch = _tensors(input_ids=tokens, attention_mask=is_event)
        batch["logits_to_keep"] = torch.from_numpy(is_mask)
        if targets is not None:
            seen, is_seen = self._padded([np.asarray(history, dtype=np.int64) for history in histories])
            labels = np.where(is_mask, np.asarray(targets)[:, None], -100)
            batch |= _tensors(labels=labels, seen_items=np.where(is_seen, seen, -100))
        return batch

    def _newest(self, tokens, max_length: int | None) -> np.ndarray:
        tokens = np.asarray(tokens, dtype=np.int64)
        return tokens if max_length is None else tokens[max(len(tokens) - max_length, 0) :]

    def _padded(self, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and where they are events, both of shape (batch, longest); at least one column."""
        lengths = np.array([len(sequence) for sequence in sequences])
        columns = np.arange(max(lengths.max(), 1))
        is_left = self.padding_side == "left"
        is_event = columns >= len(columns) - lengths[:, None] if is_left else columns < lengths[:, None]
        tokens = np.full(is_event.shape, self.pad_token_id, dtype=np.int64)
        tokens[is_event] = np.concatenate(sequences)
        return tokens, is_event

    def _position(self, is_event: np.ndarray) -> np.ndarray:
        """Position of each event in its sequence, whichever side is padded."""
        return is_event.cumsum(1) - 1

    def _counters(self, features: Sequence[dict]) -> tuple[np.ndarray, int]:
        if "row" in features[0] and "epoch" in features[0]:
            return np.array([feature["row"] for feature in features]), features[0]["epoch"]
        self._num_calls += 1
        return np.arange(len(features)), self._num_calls

    def _hidden_positions(self, is_event, lengths, rows, epoch) -> np.ndarray:
        """The cloze: the share rho of each row, at least one event, by the smallest of random numbers."""
        rounding = uniform("cloze count", self.seed, epoch, rows)
        counts = np.clip((lengths * self.mlm_probability + rounding).astype(np.int64), 1, np.maximum(lengths, 1))
        drawn = uniform("cloze", self.seed, epoch, rows[:, None], self._position(is_event))  # (batch, longest)
        drawn[~is_event] = 2.0
        threshold = np.take_along_axis(np.sort(drawn, axis=1), counts[:, None] - 1, axis=1)
        return is_event & (drawn <= threshold)

    def _replacements(self, tokens, is_event, rows, epoch) -> np.ndarray:
        """What stands at each position if it is hidden: [MASK], a random item, or the item itself."""
        if self.mask_replace_prob == 1:
            return np.full_like(tokens, self.mask_token_id)
        position = self._position(is_event)
        kind = uniform("replacement", self.seed, epoch, rows[:, None], position)
        replaced = np.where(kind < self.mask_replace_prob, self.mask_token_id, tokens)
        if self.random_replace_prob > 0:
            vocab_size = cast(int, self.vocab_size)  # __post_init__ asks for it
            drawn = uniform("random item", self.seed, epoch, rows[:, None], position)
            drawn = FIRST_ITEM_TOKEN + (drawn * (vocab_size - FIRST_ITEM_TOKEN)).astype(np.int64)
            is_random = (kind >= self.mask_replace_prob) & (kind < self.mask_replace_prob + self.random_replace_prob)
            replaced = np.where(is_random, drawn, replaced)
        return replaced


def _tensors(**arrays: np.ndarray) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)) for name, array in arrays.items()}
