"""
Attention for models that are trained in bfloat16 on a CPU, where torch's own is slower than in float32.

At the lengths of histories, a few hundred events, plain products (`row_attention`) take half of the time of torch's own in
float32; registered with Transformers as `attn_implementation="cpu_bf16"`, for padded rows.

*Source:* none; as a model's attention is chosen in `transformers.AttentionInterface`.
"""

import logging

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .row_attention import attention_by_products, causal_bias

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
    if attention_mask is not None:
        # Finite, so that a row of nothing but padding is an average and not a NaN.
        bias = query.new_zeros(attention_mask.shape).masked_fill_(~attention_mask, torch.finfo(query.dtype).min)
    elif kwargs.get("is_causal") or (kwargs.get("is_causal") is None and getattr(module, "is_causal", False)):
        bias = causal_bias(query.shape[2], query)
    num_rows, _, num_queries, _ = query.shape
    output = attention_by_products(
        *(states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)),  # (tokens, heads, size)
        sizes=[(num_rows, num_queries, key.shape[2])],
        biases=[bias],
        scaling=kwargs.get("scaling"),
        dropout=kwargs.get("dropout", 0.0),
    )
    return output.unflatten(0, (num_rows, num_queries)), None


AttentionInterface.register(CPU_BF16, cpu_bf16_attention)
AttentionMaskInterface.register(CPU_BF16, sdpa_mask)
