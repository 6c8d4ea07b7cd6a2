"""
The item embedding split by rows over processes: each holds a part of the catalogue, its gradient and its optimiser state.

*Source:* vocabulary parallelism of Shoeybi et al., "Megatron-LM" (2019), section 3, as a tensor-parallel style of
Transformers: `from_pretrained(folder, distributed_config=DistributedConfig(tp_size=2))` under `torchrun`.

*Differences:* torch's own lookup in a `DTensor` makes a gradient of all rows in each process; the one here makes the rows
that the process holds. All processes read the same batch, and everything but the rows is computed by each of them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import nn
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import EmbeddingParallel

# A build of torch without processes lacks the class of split parameters: there no parameter is one.
_SPLIT: tuple[type, ...] = ()
if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor

    _SPLIT = (DTensor,)


class ItemRows(EmbeddingParallel):
    """Tensor-parallel style `"item_rows"`: parameters are split by rows, and an embedding looks up in its own part."""

    def install_forward(self, module: nn.Module, mesh: Any) -> nn.Module:
        if isinstance(module, nn.Embedding):
            module.forward = functools.partial(_look_up, module)  # type: ignore[method-assign]
        return module


ALL_PARALLEL_STYLES.register("item_rows", ItemRows(shard_dim=0))


class _Part(NamedTuple):
    """Rows `first .. first + len(rows) - 1` of all rows: those of this process."""

    rows: torch.Tensor
    first: int
    group: Any

    def places(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens are in this part, and their rows in it."""
        is_own = (tokens >= self.first) & (tokens < self.first + len(self.rows))
        return is_own, tokens[is_own] - self.first


def is_sharded(parameter: torch.Tensor) -> bool:
    """Whether a parameter is split over processes."""
    return isinstance(parameter, _SPLIT)


def holds_later_rows(parameter: Any) -> bool:
    """Whether a parameter is split and another process, which reads the same batches, holds its first rows."""
    return is_sharded(parameter) and parameter.device_mesh.get_local_rank() > 0


def _part(parameter: Any) -> _Part:
    if is_sharded(parameter):
        mesh = parameter.device_mesh
        # torch gives the first processes as many rows as fit evenly, rounded up, and the last what is left.
        rows_per_process = -(-parameter.shape[0] // mesh.size())
        first = min(rows_per_process * mesh.get_local_rank(), parameter.shape[0])
        return _Part(parameter.to_local(), first, mesh.get_group())
    raise TypeError(f"Found a {type(parameter).__name__} beside a sharded item embedding; shard both or neither.")


def sharded_rows(parameter: torch.Tensor, tokens: torch.Tensor, padding_idx: int | None = None) -> torch.Tensor:
    r"""
    The rows of some tokens, whichever process holds them.

    Args:
        parameter (`DTensor` of shape `(vocab_size, ...)`): Split by rows.
        tokens (`torch.LongTensor`): The same in every process.
        padding_idx (`int`, *optional*): The token whose row gets no gradient from here.

    Returns:
        `torch.Tensor` of shape `(*tokens.shape, ...)`: the same in every process.
    """
    part = _part(parameter)
    return _Rows.apply(part.rows, tokens, padding_idx, part)


def _look_up(embedding: nn.Embedding, tokens: torch.Tensor) -> torch.Tensor:
    found = sharded_rows(embedding.weight, tokens, embedding.padding_idx)
    return found * getattr(embedding, "embed_scale", 1.0)  # as BART's scaled embedding


class _Rows(torch.autograd.Function):
    """Each process puts its rows in their places and zeros in the others; the sum is exact."""

    @staticmethod
    def forward(ctx, rows, tokens, padding_idx, part):
        is_own, places = part.places(tokens)
        found = rows.new_zeros((*tokens.shape, *rows.shape[1:]))
        found[is_own] = rows[places]
        torch.distributed.all_reduce(found, group=part.group)
        ctx.save_for_backward(tokens)
        ctx.padding_idx, ctx.part = padding_idx, part
        return found

    @staticmethod
    def backward(ctx, gradient):
        (tokens,) = ctx.saved_tensors
        if ctx.padding_idx is not None:
            tokens = tokens.masked_fill(tokens == ctx.padding_idx, -1)  # in nobody's part
        is_own, places = ctx.part.places(tokens)
        row_gradient = torch.zeros_like(ctx.part.rows)
        row_gradient.index_add_(0, places, gradient[is_own])
        return row_gradient, None, None, None


def sharded_cross_entropy(
    hidden_states: torch.Tensor,
    item_embeddings: torch.Tensor,
    item_bias: torch.Tensor | None,
    labels: torch.Tensor,
    rows_per_chunk: int,
) -> torch.Tensor:
    r"""
    Summed softmax cross-entropy over a catalogue of which each process scores its own part, a few labels at a time.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_labels, hidden_size)`): The same in every process.
        item_embeddings (`DTensor` of shape `(vocab_size, hidden_size)`): The output embedding, split by rows.
        item_bias (`DTensor` of shape `(vocab_size,)`, *optional*): Added to the scores; split alike.
        labels (`torch.LongTensor` of shape `(num_labels,)`): Token of each hidden item; -100 is ignored.
        rows_per_chunk (`int`): Labels whose scores exist at once.

    Returns:
        `torch.Tensor` of shape `()`: nats, in float32, the same in every process.
    """
    part = _part(item_embeddings)
    bias = None if item_bias is None else _part(item_bias).rows
    return _CrossEntropy.apply(hidden_states, part.rows, bias, labels, (part, rows_per_chunk))


class _CrossEntropy(torch.autograd.Function):
    """The gradients are computed with the loss, chunk by chunk, so that scores are made once."""

    @staticmethod
    def forward(ctx, hidden_states, rows, bias, labels, split):
        part, rows_per_chunk = split
        is_label = labels.ne(-100)
        items = rows.float()
        offset = items.new_zeros(len(items)) if bias is None else bias.float()
        states, targets = hidden_states[is_label].float(), labels[is_label]
        state_gradient = torch.empty_like(states)
        item_gradient, bias_gradient = torch.zeros_like(items), torch.zeros_like(offset)
        loss = states.new_zeros(())
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), rows_per_chunk):
                chunk = slice(start, start + rows_per_chunk)
                scores = torch.addmm(offset, states[chunk], items.T)  # (rows, own part of the vocab)
                loss += _to_gradients(scores, part.places(targets[chunk]), part.group)
                torch.mm(scores, items, out=state_gradient[chunk])
                item_gradient.addmm_(scores.T, states[chunk])
                bias_gradient += scores.sum(0)
        torch.distributed.all_reduce(state_gradient, group=part.group)
        ctx.save_for_backward(is_label, state_gradient, item_gradient, bias_gradient)
        ctx.dtypes = hidden_states.dtype, rows.dtype, None if bias is None else bias.dtype
        return loss

    @staticmethod
    def backward(ctx, gradient):
        is_label, state_gradient, item_gradient, bias_gradient = ctx.saved_tensors
        hidden_dtype, item_dtype, bias_dtype = ctx.dtypes
        hidden_gradient = state_gradient.new_zeros((len(is_label), state_gradient.shape[1]), dtype=hidden_dtype)
        hidden_gradient[is_label] = (state_gradient * gradient).to(hidden_dtype)
        bias_gradient = None if bias_dtype is None else (bias_gradient * gradient).to(bias_dtype)
        return hidden_gradient, (item_gradient * gradient).to(item_dtype), bias_gradient, None, None


def _to_gradients(scores: torch.Tensor, targets: tuple[torch.Tensor, torch.Tensor], group: Any) -> torch.Tensor:
    """Turn the scores of one part in place into the gradient of their loss; returns the summed loss over all parts."""
    is_own, columns = targets
    own_rows = is_own.nonzero()[:, 0]
    of_target = scores.new_zeros(len(scores))
    of_target[own_rows] = scores[own_rows, columns]
    sums_and_targets = _gathered(torch.stack([scores.logsumexp(1), of_target]), group)  # (processes, 2, rows)
    log_sums = sums_and_targets[:, 0].logsumexp(0)  # (processes, rows) -> (rows,)
    scores.sub_(log_sums[:, None]).exp_()
    scores[own_rows, columns] -= 1
    return (log_sums - sums_and_targets[:, 1].sum(0)).sum()


def _gathered(tensor: torch.Tensor, group: Any) -> torch.Tensor:
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(parts, tensor, group=group)
    return torch.stack(parts)


def sharded_scores(vectors: torch.Tensor, head: nn.Linear, start: int, stop: int) -> torch.Tensor:
    r"""
    Scores of a slice of the catalogue; each process scores the items of the slice that it holds.

    Args:
        vectors (`torch.Tensor` of shape `(num_histories, hidden_size)`): The same in every process, in float32.
        head (`nn.Linear`): Item embeddings as its weight, and the items' bias, split by rows.
        start (`int`): First token.
        stop (`int`): The token after the last.

    Returns:
        `torch.Tensor` of shape `(num_histories, stop - start)`: the same in every process.
    """
    part = _part(head.weight)
    own = slice(max(start - part.first, 0), max(stop - part.first, 0))
    bias = None if head.bias is None else _part(head.bias).rows[own].float()
    found = nn.functional.linear(vectors, part.rows[own].float(), bias)  # (num_histories, own items of the slice)
    scores = vectors.new_zeros((len(vectors), stop - start))
    first = max(part.first - start, 0)
    scores[:, first : first + found.shape[1]] = found
    torch.distributed.all_reduce(scores, group=part.group)
    return scores
