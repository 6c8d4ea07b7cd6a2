"""
RePlay's Bert4Rec: pre-norm blocks without a norm behind the last one, [MASK] as a vector of its own, a tied or untied head.

*Source:* `replay.models.nn.sequential.bert4rec` of replay-rec 0.22.0, Lightning checkpoints.

*Differences:* none in a score. Blocks that are passed several times become as many layers of equal weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..configuration_bert4rec import Bert4RecConfig
from .inert_pickle import Placeholder
from .pre_norm import ITEMS, OPTIONS, POSITIONS, joined_attention, rest_of_block, sizes
from .source import Converted, SourceWeights, setting, with_special_tokens

SOURCE = "RePlay's Bert4Rec"
MASK = "_model.item_embedder.mask_embedding.weight"
FEATURES = "_model.item_embedder.cat_embeddings."
SASREC = "_model.item_embedder.item_emb.weight"
SASREC_DIFFERS = (
    "RePlay's SasRec is not converted, its scores would differ: its blocks normalise queries but not keys and values, and "
    "add the attention to the normalised queries; a pre-norm block here normalises all three and adds to its input."
)
BLOCK = ("attention_norm", "pff_norm", "pff.w_1", "pff.w_2")
TOKENIZER_FILE = "init_args.json"
ITEMS_HINT = "save the tokenizer beside the checkpoint, tokenizer.save(FOLDER), or give its folder"


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether RePlay's Lightning trainer wrote this."""
    state = content.get("state_dict")
    return isinstance(state, dict) and (MASK in state or SASREC in state)


def converted(content: Mapping[str, Any], path: Path) -> Converted:
    r"""
    The model of a checkpoint.

    Args:
        content (`Mapping`): See [`checkpoint_file.read_checkpoint`].
        path (`Path`): Where it came from; a tokenizer saved in the same folder gives the raw item ids.

    Returns:
        [`Converted`].

    Raises:
        ValueError: If it is a model whose scores would differ, and why.
    """
    if MASK not in content["state_dict"]:
        raise ValueError(SASREC_DIFFERS)
    settings = setting(content, "hyper_parameters", dict, SOURCE)
    _refuse_other_features(settings)
    weights = SourceWeights(content["state_dict"], SOURCE)
    ours = _items_and_head(weights)
    hidden_size, window = ours[ITEMS].shape[1], setting(settings, "max_seq_len", int, SOURCE)
    has_positions = setting(settings, "enable_positional_embedding", bool, SOURCE)
    # There the newest event, the [MASK], has the last position, here position 0.
    name = "_model.item_embedder.position.pe.weight"
    ours[POSITIONS] = weights.tensor(name).flip(0) if has_positions else torch.zeros(window, hidden_size)
    num_blocks = weights.num_layers("_model.transformer_blocks.")
    num_passes = setting(settings, "pass_per_transformer_block_count", int, SOURCE)
    for block in range(num_blocks):
        name = f"_model.transformer_blocks.{block}"
        found = joined_attention(weights, f"{name}.attention", 0) | rest_of_block(weights, name, BLOCK, 0)
        for layer in range(block * num_passes, (block + 1) * num_passes):
            ours |= {key.replace(".layer.0.", f".layer.{layer}."): tensor.clone() for key, tensor in found.items()}
    weights.refuse_the_rest()
    dropout = setting(settings, "dropout_rate", (int, float), SOURCE)
    config = Bert4RecConfig(
        num_attention_heads=setting(settings, "head_count", int, SOURCE),
        layer_norm_eps=1e-5,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        tie_word_embeddings="cls.predictions.bias" in ours,
        **sizes(ours, num_blocks * num_passes),
        **OPTIONS,
    )
    beside = sorted(path.parent.glob(f"*.replay/{TOKENIZER_FILE}"))
    item_ids = tokenizer_item_ids(beside[0]) if len(beside) == 1 else None
    return Converted(source=SOURCE, config=config, weights=ours, item_ids=item_ids, items_hint=ITEMS_HINT)


def tokenizer_item_ids(path: Path) -> list[str | int]:
    r"""
    Raw item ids, in token order, of a tokenizer that RePlay saved.

    Args:
        path (`Path`): Its `init_args.json`.

    Returns:
        `list`: ids.

    Raises:
        ValueError: If it is no such file.
    """
    try:
        encoder = json.loads(path.read_text("utf-8"))["encoder"]
        rule = encoder["encoding_rules"][encoder["features_columns"]["ITEM_ID"][0]]
        ids = sorted(rule["mapping"], key=rule["mapping"].__getitem__)
        if [rule["mapping"][item] for item in ids] != list(range(len(ids))):
            raise ValueError("its item tokens are not 0, 1, 2 ...")
        return [int(item) for item in ids] if rule["is_int"] else ids
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} is no tokenizer that RePlay saved ({error}); give the ids as text or JSON."
        ) from error


def _refuse_other_features(settings: Mapping[str, Any]):
    """A numerical feature is added to the items and leaves no weight behind."""
    schema = settings.get("tensor_schema")
    features = vars(schema).get("_tensor_schema") if isinstance(schema, Placeholder) else None
    if not isinstance(features, dict) or len(features) != 1:
        named = ", ".join(map(str, features)) if isinstance(features, dict) else "nothing that can be read"
        raise ValueError(f"{SOURCE} reads other features than the item ({named}); it is not converted.")


def _items_and_head(weights: SourceWeights) -> dict[str, torch.Tensor]:
    names = [name for name in weights.state if name.startswith(FEATURES)]
    if len(names) != 1:
        raise ValueError(f"{SOURCE} embeds other features than the item ({', '.join(names)}); it is not converted.")
    items = with_special_tokens(weights.tensor(names[0]), weights.tensor(MASK)[0])
    if "_model._head.out_bias" not in weights.state:
        head = weights.take("_model._head.linear", "cls.predictions.decoder")
        return {ITEMS: items} | {name: with_special_tokens(tensor) for name, tensor in head.items()}
    for name in [name for name in weights.state if name.startswith("_model._head._item_embedder.")]:
        weights.tensor(name)  # the embedding again, which a tied head names as its own
    return {ITEMS: items, "cls.predictions.bias": with_special_tokens(weights.tensor("_model._head.out_bias"))}


__all__ = ["TOKENIZER_FILE", "converted", "recognises", "tokenizer_item_ids"]
