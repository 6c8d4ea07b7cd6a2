"""
RecBole's BERT4Rec and SASRec: both are post-norm blocks behind normalised embeddings, as in BERT.

*Source:* `recbole.model.sequential_recommender.bert4rec` and `.sasrec`, `recbole.model.layers` of RecBole 1.2.1.

*Differences:* scores are those of RecBole's `forward` on the same tokens. Its `full_sort_predict` of BERT4Rec leaves out the
oldest event of every history, also of short ones; here it is left out only where the window is full.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..configuration_bert4rec import FIRST_ITEM_TOKEN, Bert4RecConfig
from .checkpoint_file import read_checkpoint
from .inert_pickle import Placeholder
from .source import Converted, SourceWeights, setting, with_special_tokens

ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "swish": "silu", "tanh": "tanh", "sigmoid": "sigmoid"}
BLOCK = {
    "multi_head_attention.query": "attention.self.query",
    "multi_head_attention.key": "attention.self.key",
    "multi_head_attention.value": "attention.self.value",
    "multi_head_attention.dense": "attention.output.dense",
    "multi_head_attention.LayerNorm": "attention.output.LayerNorm",
    "feed_forward.dense_1": "intermediate.dense",
    "feed_forward.dense_2": "output.dense",
    "feed_forward.LayerNorm": "output.LayerNorm",
}
ITEMS = "bert4rec.embeddings.word_embeddings.weight"
POSITIONS = "bert4rec.embeddings.position_embeddings.weight"
ITEMS_HINT = (
    "train with save_dataset: True, which writes DATASET-SequentialDataset.pth to the folder of the checkpoint, or write "
    "dataset.field2id_token['item_id'][1:] to a file"
)


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether this is a checkpoint of RecBole."""
    return "state_dict" in content and "final_config_dict" in _attributes(content.get("config"))


def converted(content: Mapping[str, Any], path: Path) -> Converted:
    r"""
    The model of a checkpoint.

    Args:
        content (`Mapping`): See [`checkpoint_file.read_checkpoint`].
        path (`Path`): Where it came from; a data set saved beside it gives the raw item ids.

    Returns:
        [`Converted`].

    Raises:
        ValueError: If it is a model whose scores would differ, and why.
    """
    settings = _attributes(content["config"])["final_config_dict"]
    name = setting(settings, "model", str, "RecBole")
    source = f"RecBole's {name}"
    if name not in ("BERT4Rec", "SASRec"):
        raise ValueError(f"{source} is another architecture; of RecBole BERT4Rec and SASRec are read.")
    weights = SourceWeights(content["state_dict"], source)
    options = _options(settings, source)
    if name == "BERT4Rec":
        if options["hidden_act"] != "gelu":
            raise ValueError(
                f"{source}: its blocks use {settings['hidden_act']} and its head GELU; here one activation serves both, so "
                "that scores would differ; it is not converted."
            )
        ours = _encoder(weights) | _head(weights)
    else:
        options |= {"head_transform": False, "reading": "causal"}
        ours = _encoder(weights) | _items_of_sasrec(weights)
        # A full window here ends in a [MASK], which no event sees.
        ours[POSITIONS] = torch.nn.functional.pad(ours[POSITIONS], (0, 0, 0, 1))
    weights.refuse_the_rest()
    vocab_size, hidden_size = ours[ITEMS].shape
    config = Bert4RecConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=sum(name.endswith("intermediate.dense.bias") for name in ours),
        intermediate_size=len(ours["bert4rec.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(ours[POSITIONS]),
        **options,
    )
    item_ids = _item_ids_beside(path, settings, vocab_size - FIRST_ITEM_TOKEN)
    return Converted(source=source, config=config, weights=ours, item_ids=item_ids, items_hint=ITEMS_HINT)


def _encoder(weights: SourceWeights) -> dict[str, torch.Tensor]:
    ours = {POSITIONS: weights.tensor("position_embedding.weight")}
    ours |= weights.take("LayerNorm", "bert4rec.embeddings.LayerNorm")
    for layer in range(weights.num_layers("trm_encoder.layer.")):
        for part, our_part in BLOCK.items():
            ours |= weights.take(f"trm_encoder.layer.{layer}.{part}", f"bert4rec.encoder.layer.{layer}.{our_part}")
    return ours


def _head(weights: SourceWeights) -> dict[str, torch.Tensor]:
    """Items and head of BERT4Rec: row 0 of the items is padding, the last one [MASK], which has no bias."""
    items = weights.tensor("item_embedding.weight")
    return {
        ITEMS: with_special_tokens(items[1:-1], items[-1]),
        "cls.predictions.bias": with_special_tokens(weights.tensor("output_bias")[1:]),
        **weights.take("output_ffn", "cls.predictions.transform.dense"),
        **weights.take("output_ln", "cls.predictions.transform.LayerNorm"),
    }


def _items_of_sasrec(weights: SourceWeights) -> dict[str, torch.Tensor]:
    items = with_special_tokens(weights.tensor("item_embedding.weight")[1:])
    return {ITEMS: items, "cls.predictions.bias": items.new_zeros(len(items))}


def _item_ids_beside(path: Path, settings: Mapping[str, Any], num_items: int) -> list[str] | None:
    beside = path.parent / f"{settings.get('dataset')}-SequentialDataset.pth"
    if not beside.is_file():
        return None
    item_ids = dataset_item_ids(beside)
    if len(item_ids) != num_items:
        raise ValueError(
            f"{beside} has {len(item_ids)} items, the model {num_items}: it is another data set; give the ids in token "
            "order with --items."
        )
    return item_ids


def dataset_item_ids(path: Path) -> list[str]:
    r"""
    Raw item ids, in token order, of a data set that RecBole saved.

    Args:
        path (`Path`): The file that `save_dataset: True` writes.

    Returns:
        `list[str]`: without the padding.

    Raises:
        ValueError: If it is no data set of RecBole.
    """
    content = read_checkpoint(path)
    tables = content.get("field2id_token")
    ids = tables.get(content.get("iid_field")) if isinstance(tables, dict) else None
    if not isinstance(ids, np.ndarray) or ids.ndim != 1:
        raise ValueError(f"{path} is no data set that RecBole saved; give the ids as text or JSON.")
    return [str(item) for item in ids[1:]]


def _attributes(value: Any) -> dict[str, Any]:
    return vars(value) if isinstance(value, Placeholder) else {}


def _options(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What the weights do not tell."""
    activation = setting(settings, "hidden_act", str, source)
    if activation not in ACTIVATIONS:
        raise ValueError(f"{source}: its activation {activation!r} is unknown; known are {', '.join(ACTIVATIONS)}.")
    return {
        "hidden_act": ACTIVATIONS[activation],
        "num_attention_heads": setting(settings, "n_heads", int, source),
        "layer_norm_eps": setting(settings, "layer_norm_eps", (int, float), source),
        "hidden_dropout_prob": setting(settings, "hidden_dropout_prob", (int, float), source),
        "attention_probs_dropout_prob": setting(settings, "attn_dropout_prob", (int, float), source),
        "initializer_range": setting(settings, "initializer_range", (int, float), source),
    }


__all__ = ["converted", "dataset_item_ids", "recognises"]
