"""
BERT4Rec-VAE-Pytorch: pre-norm blocks without a norm behind the last one, tanh-GELU, an untied head.

*Source:* `models/bert.py` and `models/bert_modules` of github.com/jaywonchung/BERT4Rec-VAE-Pytorch.

*Differences:* its layer norm divides by the sample's standard deviation s plus 1e-6, ours by the population's. The factor
between the two is taken into the weights; the 1e-6 is not, which changes a normalised value by 1e-6 / s of itself. Its
embeddings start with s = 1.4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..configuration_bert4rec import Bert4RecConfig
from .checkpoint_file import read_checkpoint
from .pre_norm import ENCODER, ITEMS, OPTIONS, POSITIONS, sizes
from .source import Converted, SourceWeights, setting, with_special_tokens

SOURCE = "BERT4Rec-VAE-Pytorch's model"
TOKENS = "bert.embedding.token.weight"
BLOCKS = "bert.transformer_blocks."
BLOCK = {
    "attention.linear_layers.0": "attention.self.query",
    "attention.linear_layers.1": "attention.self.key",
    "attention.linear_layers.2": "attention.self.value",
    "attention.output_linear": "attention.output.dense",
    "feed_forward.w_1": "intermediate.dense",
    "feed_forward.w_2": "output.dense",
}
NORMS = {"input_sublayer.norm": "attention.LayerNorm", "output_sublayer.norm": "intermediate.LayerNorm"}
ITEMS_HINT = "give the dataset.pkl that it wrote when it prepared the log, where its items count from 1"


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether BERT4Rec-VAE-Pytorch wrote this."""
    return any(isinstance(state, dict) and TOKENS in state for state in _states(content))


def converted(content: Mapping[str, Any], path: Path) -> Converted:
    r"""
    The model of a checkpoint.

    Args:
        content (`Mapping`): See [`checkpoint_file.read_checkpoint`].
        path (`Path`): Where it came from; the experiment's `config.json` is in its folder or the one above.

    Returns:
        [`Converted`].

    Raises:
        ValueError: If the `config.json` is missing, or if it is another architecture.
    """
    state = next(state for state in _states(content) if isinstance(state, dict) and TOKENS in state)
    settings = _settings(path)
    weights = SourceWeights(state, SOURCE)
    tokens = weights.tensor(TOKENS)  # padding, items, [MASK]
    ours = {ITEMS: with_special_tokens(tokens[1:-1], tokens[-1])}
    # There the newest event has the last position, here position 0.
    ours[POSITIONS] = weights.tensor("bert.embedding.position.pe.weight").flip(0)
    for name, tensor in weights.take("out", "cls.predictions.decoder").items():
        ours[name] = with_special_tokens(tensor[1:])
    num_layers = weights.num_layers(BLOCKS)
    for layer in range(num_layers):
        for part, our_part in BLOCK.items():
            ours |= weights.take(f"{BLOCKS}{layer}.{part}", f"{ENCODER}.{layer}.{our_part}")
        for part, our_part in NORMS.items():
            ours |= _norm(weights, f"{BLOCKS}{layer}.{part}", f"{ENCODER}.{layer}.{our_part}")
    weights.refuse_the_rest()
    dropout = setting(settings, "bert_dropout", (int, float), SOURCE)
    config = Bert4RecConfig(
        num_attention_heads=setting(settings, "bert_num_heads", int, SOURCE),
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        tie_word_embeddings=False,
        **sizes(ours, num_layers),
        **OPTIONS,
    )
    return Converted(source=SOURCE, config=config, weights=ours, item_ids=None, items_hint=ITEMS_HINT)


def dataset_item_ids(path: Path) -> list[Any] | None:
    r"""
    Raw item ids, in token order, of a `dataset.pkl`.

    Args:
        path (`Path`): The file.

    Returns:
        `list`, *optional*: ids; `None` if it is another file.

    Raises:
        ValueError: If its items count from 0: then one of them is the padding.
    """
    table = read_checkpoint(path).get("smap")
    if not isinstance(table, dict):
        return None
    ids = sorted(table, key=table.__getitem__)
    if [table[item] for item in ids] != list(range(1, len(ids) + 1)):
        raise ValueError(
            f"{path} numbers its items from {table[ids[0]] if ids else 'nowhere'}, not 1: one of them was the padding, and the "
            "model never read it; give the ids of the tokens from 1 on as text or JSON."
        )
    return [item if isinstance(item, str) else int(item) for item in ids]


def _states(content: Mapping[str, Any]) -> tuple[Any, ...]:
    return content.get("model_state_dict"), content.get("state_dict"), content


def _settings(path: Path) -> dict[str, Any]:
    for folder in (path.parent, path.parent.parent):
        file = folder / "config.json"
        if file.is_file():
            try:
                return json.loads(file.read_text("utf-8"))
            except ValueError as error:
                raise ValueError(f"{file} cannot be read ({error}); copy the experiment again.") from error
    raise ValueError(
        f"{SOURCE} does not say how many attention heads it has; put the experiment's config.json beside {path.name}."
    )


def _norm(weights: SourceWeights, name: str, our_name: str) -> dict[str, torch.Tensor]:
    scale = weights.tensor(f"{name}.a_2")
    # The deviation of a sample is larger than that of a population, by which ours divides.
    factor = math.sqrt((len(scale) - 1) / len(scale))
    return {f"{our_name}.weight": scale * factor, f"{our_name}.bias": weights.tensor(f"{name}.b_2")}


__all__ = ["converted", "dataset_item_ids", "recognises"]
