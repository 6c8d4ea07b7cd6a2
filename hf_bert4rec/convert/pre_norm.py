"""
Pre-norm blocks whose attention is `torch.nn.MultiheadAttention`, which joins query, key and value in one matrix.

*Source:* `torch.nn.MultiheadAttention`.
"""

from __future__ import annotations

import torch

from .source import SourceWeights

ENCODER = "bert4rec.encoder.layer"
ITEMS = "bert4rec.embeddings.word_embeddings.weight"
POSITIONS = "bert4rec.embeddings.position_embeddings.weight"
# What the three pre-norm models of other projects have in common; an event's position is counted from the newest.
OPTIONS = {
    "norm_position": "pre",
    "final_layer_norm": False,
    "embedding_layer_norm": False,
    "head_transform": False,
    "position_origin": "newest",
}


def joined_attention(weights: SourceWeights, name: str, layer: int) -> dict[str, torch.Tensor]:
    r"""
    Args:
        weights ([`SourceWeights`]): Of the checkpoint.
        name (`str`): Name of the attention module there.
        layer (`int`): Number of our block.

    Returns:
        `dict`: weights and biases of our block's attention.
    """
    ours = weights.take(f"{name}.out_proj", f"{ENCODER}.{layer}.attention.output.dense")
    for part in ("weight", "bias"):
        query, key, value = weights.tensor(f"{name}.in_proj_{part}").chunk(
            3
        )  # (3 * hidden, ...) -> 3 of (hidden, ...)
        for role, tensor in (("query", query), ("key", key), ("value", value)):
            ours[f"{ENCODER}.{layer}.attention.self.{role}.{part}"] = tensor
    return ours


def rest_of_block(weights: SourceWeights, name: str, parts: tuple[str, str, str, str], layer: int):
    r"""
    Args:
        weights ([`SourceWeights`]): Of the checkpoint.
        name (`str`): Name of the block there.
        parts (`tuple`): Names in it: norm before the attention, norm before the feed-forward, its two layers.
        layer (`int`): Number of our block.

    Returns:
        `dict`: weights and biases of our block's norms and feed-forward layers.
    """
    our_parts = ("attention.LayerNorm", "intermediate.LayerNorm", "intermediate.dense", "output.dense")
    ours: dict[str, torch.Tensor] = {}
    for part, our_part in zip(parts, our_parts, strict=True):
        ours |= weights.take(f"{name}.{part}", f"{ENCODER}.{layer}.{our_part}")
    return ours


def sizes(ours: dict[str, torch.Tensor], num_layers: int) -> dict[str, int]:
    """Options of the configuration that the weights tell."""
    vocab_size, hidden_size = ours[ITEMS].shape
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "intermediate_size": len(ours[f"{ENCODER}.0.intermediate.dense.bias"]),
        "max_position_embeddings": len(ours[POSITIONS]),
    }


__all__ = ["ENCODER", "ITEMS", "OPTIONS", "POSITIONS", "joined_attention", "rest_of_block", "sizes"]
