"""
A trained model as a scorer: histories of tokens in, scores of any slice of the catalogue out. One scorer ranks by what the
model expects next, the other by what is like the newest item; a third shifts either towards popular or rare items.

*Source:* item-to-item similarity by the cosine of embeddings as in Barkan & Koenigstein, "Item2Vec" (MLSP 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import normalize

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .data_collator import DataCollatorForCloze
from .modeling_bert4rec import Bert4RecForMaskedLM
from .process_memory import keep_free_memory
from .ranking import Scorer
from .sharded_items import is_sharded, sharded_scores

# Tokens that a CPU reads at once: 4 MiB at width 64, which stay in the cache, and few enough calls to pay for their overhead.
TOKENS_AT_ONCE = 1 << 14


class ModelScorer:
    r"""
    Follows [`ranking.Scorer`]: each history is read once, then scored against as many slices as are asked for.

    Args:
        model ([`Bert4RecForMaskedLM`]): Put in evaluation mode by the first call. On a CPU the process then keeps up to 64 MiB
            that it has freed, see `process_memory`.

    Example:
        >>> import numpy as np
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
        >>> scorer = ModelScorer(Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=103)))
        >>> scorer(None, [np.array([5, 9]), np.array([7])])(3, 103).shape
        torch.Size([2, 100])
    """

    def __init__(self, model: Bert4RecForMaskedLM):
        config = model.config
        self.model, self.vocab_size = model, config.vocab_size
        if model.device.type == "cpu":
            keep_free_memory()
        self.collator = DataCollatorForCloze(
            max_length=config.max_position_embeddings,
            pad_token_id=cast(int, config.pad_token_id),  # a model that ranks pads and masks
            mask_token_id=cast(int, config.mask_token_id),
        )

    @property
    def is_sharded(self) -> bool:
        """Whether the catalogue is split over processes, which must then all score the same histories."""
        return is_sharded(self.model.get_output_embeddings().weight)

    @torch.inference_mode()
    def user_vectors(self, histories: list[np.ndarray]) -> torch.Tensor:
        """Vectors of shape `(num_histories, hidden_size)` in float32, see [`Bert4RecForMaskedLM.user_vectors`]."""
        if self.model.training:  # eval() walks through all modules: a fifth of the time of one short history
            self.model.eval()
        device = self.model.device
        longest = min(max(map(len, histories), default=0) + 1, cast(int, self.collator.max_length))
        # On a GPU the whole batch at once; on a CPU what is computed along the way stays in the cache.
        rows = max(1, TOKENS_AT_ONCE // longest) if device.type == "cpu" else len(histories)
        vectors = []
        for start in range(0, len(histories), rows):
            batch = self.collator.ranking_batch(histories[start : start + rows])
            inputs = batch["input_ids"].to(device), batch["attention_mask"].to(device)
            vectors.append(self.model.user_vectors(*inputs).float())  # (rows, hidden)
        return torch.cat(vectors)

    def __call__(self, user_ids: list[Any] | None, histories: list[np.ndarray]) -> Callable[[int, int], torch.Tensor]:
        """`score_items(start, stop)` gives float32 scores of shape `(num_histories, stop - start)`."""
        vectors = self.user_vectors(histories)
        head = self.model.get_output_embeddings()

        @torch.inference_mode()
        def score_items(start: int, stop: int) -> torch.Tensor:
            if self.is_sharded:
                return sharded_scores(vectors, head, start, stop)
            bias = None if head.bias is None else head.bias[start:stop].float()
            return torch.nn.functional.linear(vectors, head.weight[start:stop].float(), bias)

        return score_items


class ItemSimilarity:
    r"""
    Follows [`ranking.Scorer`]: scores an item by the cosine of its embedding with that of the newest item of the history.

    The embeddings are those that score, without the items' bias, so that popularity counts for nothing. Where there is no
    item every score is 0.

    Args:
        model ([`Bert4RecForMaskedLM`]): Whose item embeddings; its encoder is not run.

    Example:
        >>> import numpy as np
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
        >>> scorer = ItemSimilarity(Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=103)))
        >>> round(scorer(None, [np.array([9, 5])])(3, 103)[0, 2].item(), 3)  # token 5 with itself
        1.0
    """

    def __init__(self, model: Bert4RecForMaskedLM):
        self.model, self.vocab_size = model, model.config.vocab_size

    @torch.inference_mode()
    def __call__(self, user_ids: list[Any] | None, histories: list[np.ndarray]) -> Callable[[int, int], torch.Tensor]:
        """`score_items(start, stop)` gives float32 cosines of shape `(num_histories, stop - start)`."""
        weight = self.model.get_output_embeddings().weight
        newest = torch.tensor([int(history[-1]) if len(history) else 0 for history in histories], device=weight.device)
        has_item = torch.tensor([len(history) > 0 for history in histories], device=weight.device)
        vectors = normalize(weight[newest].float()) * has_item[:, None]  # (num_histories, hidden)

        @torch.inference_mode()
        def score_items(start: int, stop: int) -> torch.Tensor:
            return vectors @ normalize(weight[start:stop].float()).T

        return score_items


class RarityScorer:
    r"""
    Another scorer's scores, shifted towards rare items, or popular ones where `strength` is negative.

    `strength * ln(place)` is added to the score of each item. Its place in the vocabulary, 1 for the most popular item, is
    all that a saved model knows of popularity; where [`prepare`] did not order the vocabulary the shift means nothing. By
    Zipf's law the most popular item is `place` times as frequent as the item at a place: with a strength of 1 items are
    then ranked by how much likelier a history makes them than they are at large.

    Args:
        scorer ([`ranking.Scorer`]): Whose scores; log-probabilities but for a constant, as those of [`ModelScorer`] are.
        strength (`float`): 0 changes nothing.

    Example:
        >>> import numpy as np
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
        >>> scorer = ModelScorer(Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=103)))
        >>> history = [np.array([5, 9])]
        >>> shift = RarityScorer(scorer, 2.0)(None, history)(3, 103) - scorer(None, history)(3, 103)
        >>> [round(shift[0, token - 3].item(), 2) for token in (3, 4, 102)]  # places 1, 2 and 100
        [0.0, 1.39, 9.21]
    """

    def __init__(self, scorer: Scorer, strength: float):
        self.scorer, self.strength, self.vocab_size = scorer, strength, scorer.vocab_size

    def __call__(self, user_ids: list[Any] | None, histories: list[np.ndarray]) -> Callable[[int, int], torch.Tensor]:
        """`score_items(start, stop)` gives float32 scores of shape `(num_histories, stop - start)`."""
        score_items = self.scorer(user_ids, histories)

        def shifted(start: int, stop: int) -> torch.Tensor:
            scores = score_items(start, stop)
            places = torch.arange(start, stop, device=scores.device) - FIRST_ITEM_TOKEN + 1
            return scores + self.strength * places.clamp(min=1).log()  # special tokens are never listed

        return shifted
