"""
What a teacher adds to the loss: cross-entropy against its probabilities of all items instead of against the label alone.

*Source:* Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network" (2015), at temperature 1.

*Differences:* of the loss (1 - w) CE(label) + w CE(teacher) only the difference to CE(label) is computed here, w (score of the
label - mean score under the teacher's probabilities): whatever computes CE(label) is left as it is.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

# Scores that exist at once, 4 MiB of them, which stay in a processor's cache; of large catalogues at least those of some labels.
SCORES_AT_ONCE = 1 << 20
LABELS_AT_ONCE = 64


class SoftTargets(NamedTuple):
    r"""
    A teacher's view of the labels of a batch.

    Args:
        vectors (`torch.Tensor` of shape `(num_labels, teacher_size)`): What the teacher's head's transform gave, no gradient.
        decoder (`nn.Linear`): The teacher's item embeddings as its weight, and the items' bias.
        weight (`float`): Its share of the loss, from 0 to 1.
    """

    vectors: torch.Tensor
    decoder: nn.Linear
    weight: float


def label_over_expected(
    hidden_states: torch.Tensor,
    item_embeddings: torch.Tensor,
    item_bias: torch.Tensor | None,
    labels: torch.Tensor,
    teacher: SoftTargets,
) -> torch.Tensor:
    r"""
    How much higher the labels score than items do on average under a teacher's probabilities over the whole catalogue, summed.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_labels, hidden_size)`): One vector per hidden item.
        item_embeddings (`torch.Tensor` of shape `(vocab_size, hidden_size)`): The output embedding.
        item_bias (`torch.Tensor` of shape `(vocab_size,)`, *optional*): Added to the scores.
        labels (`torch.LongTensor` of shape `(num_labels,)`): Token of each hidden item; -100 is ignored.
        teacher ([`SoftTargets`]): For the same labels.

    Returns:
        `torch.Tensor` of shape `()`: nats.

    Example:
        >>> teacher, bias = nn.Linear(4, 8), torch.arange(8.0)
        >>> _ = nn.init.zeros_(teacher.bias)
        >>> targets = SoftTargets(torch.zeros(1, 4), teacher, 0.5)
        >>> found = label_over_expected(torch.zeros(1, 2), torch.zeros(8, 2), bias, torch.tensor([5]), targets)
        >>> round(found.item(), 3)  # 5 - 3.5
        1.5
    """
    bias = item_embeddings.new_zeros(len(item_embeddings)) if item_bias is None else item_bias
    return _LabelOverExpected.apply(hidden_states, item_embeddings, bias, labels, teacher)


class _LabelOverExpected(torch.autograd.Function):
    """Linear in states and items each, so that the gradients are at hand where the value is."""

    @staticmethod
    def forward(ctx, hidden_states, items, bias, labels, teacher):
        ctx.dtypes = hidden_states.dtype, items.dtype, bias.dtype
        dtype = torch.promote_types(items.dtype, torch.float32)
        states, items, bias = (given.to(dtype) for given in (hidden_states, items, bias))
        with torch.autocast(states.device.type, enabled=False):
            value, *ctx.gradients = _value_and_gradients(states, items, bias, labels, teacher)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        pairs = zip(ctx.gradients, ctx.dtypes, strict=True)
        return *((found * gradient).to(dtype) for found, dtype in pairs), None, None


def _value_and_gradients(states, items, bias, labels, teacher: SoftTargets) -> tuple[torch.Tensor, ...]:
    """The sum, and its gradients by states, items and bias."""
    value, of_states = states.new_zeros(()), torch.zeros_like(states)
    of_items, of_bias = torch.zeros_like(items), torch.zeros_like(bias)
    teacher_items = teacher.decoder.weight.to(items.dtype)
    size = max(LABELS_AT_ONCE, SCORES_AT_ONCE // len(items))
    for rows in labels.ne(-100).nonzero()[:, 0].split(size):
        block, label = states[rows], labels[rows]
        scores = teacher.vectors[rows].to(items.dtype) @ teacher_items.T  # (rows, vocab)
        shares = (scores if teacher.decoder.bias is None else scores + teacher.decoder.bias).softmax(1)
        difference = items[label] - shares @ items  # (rows, hidden)
        value += (block * difference).sum() + (bias[label] - shares @ bias).sum()
        of_states[rows] = difference
        of_items.addmm_(shares.T, block, alpha=-1).index_add_(0, label, block)
        of_bias.sub_(shares.sum(0)).index_add_(0, label, torch.ones_like(label, dtype=bias.dtype))
    return value, of_states, of_items, of_bias
