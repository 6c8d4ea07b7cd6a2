"""
RecTools' BERT4RecModel: pre-norm blocks without a norm behind the last one, positions counted from the newest event.

*Source:* `rectools.models.nn.transformers` of RecTools 0.19.0; its `save` pickles the bytes of a Lightning checkpoint.

*Differences:* none in a score. What its many `*_type` options may exchange is refused unless it is the default.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..configuration_bert4rec import Bert4RecConfig
from .checkpoint_file import read_objects
from .pre_norm import ITEMS, OPTIONS, POSITIONS, joined_attention, rest_of_block, sizes
from .source import Converted, SourceWeights, setting, with_special_tokens

SOURCE = "RecTools' BERT4RecModel"
SASREC_DIFFERS = (
    "RecTools' SASRecModel is not converted, its scores would differ: its blocks normalise queries but not keys and values, "
    "and add the attention to the normalised queries; a pre-norm block here normalises all three and adds to its input."
)
# The options of which a score depends, and the only value that is read.
REQUIRED = {
    "transformer_layers_type": "rectools.models.nn.transformers.net_blocks.PreLNTransformerLayers",
    "pos_encoding_type": "rectools.models.nn.transformers.net_blocks.LearnableInversePositionalEncoding",
    "similarity_module_type": "rectools.models.nn.transformers.similarity.DistanceSimilarityModule",
    "backbone_type": "rectools.models.nn.transformers.torch_backbone.TransformerTorchBackbone",
    "data_preparator_type": "rectools.models.nn.transformers.bert4rec.BERT4RecDataPreparator",
    "use_key_padding_mask": True,
    "use_causal_attn": False,
    "pos_encoding_kwargs": None,
    "similarity_module_kwargs": None,
    "backbone_kwargs": None,
}
BLOCK = ("layer_norm_1", "layer_norm_2", "feed_forward.ff_linear_1", "feed_forward.ff_linear_2")
NUM_SPECIAL = 2  # PAD and MASK


def recognises(content: Mapping[str, Any]) -> bool:
    """Whether RecTools' `save` or its Lightning trainer wrote this."""
    settings = content.get("hyper_parameters")
    return "fitted_checkpoint" in content or (isinstance(settings, dict) and "item_external_ids" in settings)


def converted(content: Mapping[str, Any], path: Path) -> Converted:
    r"""
    The model of a checkpoint, with its raw item ids.

    Args:
        content (`Mapping`): See [`checkpoint_file.read_checkpoint`].
        path (`Path`): Where it came from.

    Returns:
        [`Converted`].

    Raises:
        ValueError: If it is a model whose scores would differ, and why.
    """
    if "fitted_checkpoint" in content:
        content = read_objects(io.BytesIO(setting(content, "fitted_checkpoint", bytes, "RecTools")), path)
    hyper_parameters = setting(content, "hyper_parameters", dict, "RecTools")
    settings = setting(hyper_parameters, "model_config", dict, "RecTools")
    _refuse_what_differs(settings)
    weights = SourceWeights(setting(content, "state_dict", dict, SOURCE), SOURCE)
    items = weights.tensor("torch_model.item_model.item_net_blocks.0.ids_emb.weight")
    ours = {ITEMS: with_special_tokens(items[NUM_SPECIAL:], items[1])}
    window = setting(settings, "session_max_len", int, SOURCE)
    has_positions = setting(settings, "use_pos_emb", bool, SOURCE)
    name = "torch_model.pos_encoding_layer.pos_emb.weight"
    ours[POSITIONS] = weights.tensor(name) if has_positions else items.new_zeros(window, items.shape[1])
    blocks = "torch_model.transformer_layers.transformer_blocks."
    num_layers = weights.num_layers(blocks)
    for layer in range(num_layers):
        ours |= joined_attention(weights, f"{blocks}{layer}.multi_head_attn", layer)
        ours |= rest_of_block(weights, f"{blocks}{layer}", BLOCK, layer)
    weights.refuse_the_rest()
    ours["cls.predictions.bias"] = items.new_zeros(len(ours[ITEMS]))
    dropout = setting(settings, "dropout_rate", (int, float), SOURCE)
    config = Bert4RecConfig(
        num_attention_heads=setting(settings, "n_heads", int, SOURCE),
        layer_norm_eps=1e-5,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **sizes(ours, num_layers),
        **OPTIONS,
    )
    item_ids = list(hyper_parameters["item_external_ids"])[NUM_SPECIAL:]
    return Converted(
        source=SOURCE, config=config, weights=ours, item_ids=item_ids, items_hint="they are in every checkpoint"
    )


def _refuse_what_differs(settings: Mapping[str, Any]):
    name = settings.get("cls")
    if name == "SASRecModel":
        raise ValueError(SASREC_DIFFERS)
    if name != "BERT4RecModel":
        raise ValueError(f"RecTools' {name} is another architecture; of RecTools BERT4RecModel is read.")
    for option, required in REQUIRED.items():
        if settings.get(option) != required:
            raise ValueError(
                f"{SOURCE} has {option}={settings.get(option)!r}; only {required!r} is known to give equal scores; it is not "
                "converted."
            )


__all__ = ["converted", "recognises"]
