"""
Attention in bfloat16 products on a CPU, registered with Transformers as `attn_implementation="cpu_bf16"`.

torch's own fused attention is slower in bfloat16 than in float32 on a CPU (its backward pass takes more than twice as long).
At the lengths of histories, a few hundred events, four plain products and a softmax take half of float32's time.

*Source:* Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), section 3.2.1.
*Differences:* none in the mathematics; scores and weights are in bfloat16, the softmax's sums in float32.
"""

import logging

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .dropout import BitDropout

logger = logging.getLogger(__name__)

CPU_BF16 = "cpu_bf16"


def has_bf16_products() -> bool:
    r"""
    Whether this machine multiplies in bfloat16 at a useful rate: an accelerator, or a processor whose instructions oneDNN
    has kernels for. Elsewhere torch falls back to loops: a training step takes nine times as long as in float32.

    Example:
        >>> options = {"bf16": has_bf16_products()}  # of `train`
    """
    return torch.accelerator.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def choose_attention(model: PreTrainedModel, arguments: TrainingArguments):
    r"""
    Give a model that is trained in bfloat16 on a CPU the attention of this module; any other keeps its own.

    Args:
        model (`PreTrainedModel`): About to be trained; changed in place.
        arguments (`TrainingArguments`): Of the training.
    """
    if not arguments.bf16 or arguments.device.type != "cpu":
        return
    if not has_bf16_products():
        logger.warning("This processor has no bfloat16 instructions: --bf16 is many times slower here; leave it out.")
    model.set_attn_implementation(CPU_BF16)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, bias, scaling, dropout):
        query = query * scaling
        scores = torch.matmul(query, key.transpose(-1, -2))  # (batch, heads, queries, keys)
        if bias is not None:
            scores += bias
        weights = torch.softmax(scores, -1)
        kept = None
        if dropout:
            # What dropout makes of ones: 0, or the scale of what is kept.
            kept = BitDropout(dropout)(torch.ones_like(weights, dtype=query.dtype))
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scaling = scaling
        return torch.matmul(weights if kept is None else weights * kept, value)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, weights, kept = ctx.saved_tensors
        dropped = weights if kept is None else weights * kept
        value_gradient = torch.matmul(dropped.transpose(-1, -2), gradient)
        weights_gradient = torch.matmul(gradient, value.transpose(-1, -2))
        if kept is not None:
            weights_gradient *= kept
        scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
        query_gradient = torch.matmul(scores_gradient, key) * ctx.scaling
        key_gradient = torch.matmul(scores_gradient.transpose(-1, -2), query)
        return query_gradient, key_gradient, value_gradient, None, None, None


def cpu_bf16_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    r"""
    Attention as Transformers calls it; anything but bfloat16 on a CPU goes to `scaled_dot_product_attention`.

    Args:
        module (`torch.nn.Module`): The attention block.
        query, key, value (`torch.Tensor` of shape `(batch_size, num_heads, length, head_size)`): Projections.
        attention_mask (`torch.BoolTensor` of shape `(batch_size, 1, queries or 1, keys)`, *optional*): Who may be seen.

    Returns:
        `tuple`: output of shape `(batch_size, queries, num_heads, head_size)`, and `None` for the weights.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    bias = None
    # Finite, so that a row of nothing but padding is an average and not a NaN.
    hidden = torch.finfo(query.dtype).min
    if attention_mask is not None:
        bias = query.new_zeros(attention_mask.shape).masked_fill_(~attention_mask, hidden)
    elif kwargs.get("is_causal") or (kwargs.get("is_causal") is None and getattr(module, "is_causal", False)):
        bias = query.new_full((query.shape[2], key.shape[2]), hidden).triu_(1)
    scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
    output = _Attention.apply(query, key, value, bias, scaling, kwargs.get("dropout", 0.0))
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(CPU_BF16, cpu_bf16_attention)
AttentionMaskInterface.register(CPU_BF16, sdpa_mask)
