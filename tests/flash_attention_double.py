"""
A stand-in for the package `flash_attn`: the equation of attention, one sequence and one query at a time, on any device.

*Source:* the signatures and documentation of `flash_attn` 2.8.

*Differences:* dropout is refused; float32 is taken too, where it is asked for.
"""

import sys
from types import ModuleType

import torch
from transformers import modeling_flash_attention_utils as flash_loading

HALF = (torch.float16, torch.bfloat16)


class FlashAttention:
    """The functions that Transformers looks up; `calls` holds the name of each that ran and whether it was causal."""

    def __init__(self, takes_single_precision: bool):
        self.takes_single_precision = takes_single_precision
        self.calls: list[tuple[str, bool]] = []

    def flash_attn_func(self, q, k, v, dropout_p=0.0, softmax_scale=None, *, causal=False, window_size=(-1, -1)):
        """Of tensors of shape `(batch, length, heads, size)`."""
        self._check(q, k, v, dropout_p)
        self.calls.append(("flash_attn_func", causal))
        rows = zip(q, k, v, strict=True)
        return torch.stack([attention(*row, softmax_scale, left_and_right(causal, window_size)) for row in rows])

    def flash_attn_varlen_func(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, *, max_seqlen_q, max_seqlen_k, softmax_scale=None, **options
    ):
        """Of tensors of shape `(all tokens, heads, size)`; sequence n lies from `cu_seqlens[n]` to `cu_seqlens[n + 1]`."""
        self._check(q, k, v, options.get("dropout_p", 0.0))
        for states, ends, longest in ((q, cu_seqlens_q, max_seqlen_q), (k, cu_seqlens_k, max_seqlen_k)):
            assert (ends.dtype, ends.ndim, states.ndim) == (torch.int32, 1, 3)
            assert int(ends[-1]) == len(states) and int(ends.diff().max()) <= longest
        self.calls.append(("flash_attn_varlen_func", options["causal"]))
        window = left_and_right(options["causal"], options.get("window_size", (-1, -1)))
        lengths = [ends.diff().tolist() for ends in (cu_seqlens_q, cu_seqlens_k, cu_seqlens_k)]
        parts = [states.split(sizes) for states, sizes in zip((q, k, v), lengths, strict=True)]
        return torch.cat([attention(*sequence, softmax_scale, window) for sequence in zip(*parts, strict=True)])

    def _check(self, q, k, v, dropout_p):
        assert q.dtype == k.dtype == v.dtype and q.shape[-1] <= 256 and dropout_p == 0
        if q.dtype not in HALF and not self.takes_single_precision:
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")


def left_and_right(causal: bool, window_size: tuple[int, int]) -> tuple[int, int]:
    """How many keys a query sees before and behind its own; -1: all."""
    return (window_size[0], 0) if causal else window_size


def attention(query, key, value, scale, window) -> torch.Tensor:
    """Of one sequence: queries `(queries, heads, size)`, keys and values `(keys, heads, size)`."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    rows = []
    for number, vector in enumerate(query):
        place = number + len(key) - len(query)  # the last query stands at the last key
        first = 0 if window[0] < 0 else max(0, place - window[0])
        stop = len(key) if window[1] < 0 else max(0, place + window[1] + 1)
        weights = (torch.einsum("hd,khd->hk", vector, key[first:stop]) * scale).softmax(-1)
        rows.append(torch.einsum("hk,khd->hd", weights, value[first:stop]))
    return torch.stack(rows) if rows else query


def unpad_input(hidden_states, attention_mask):
    raise NotImplementedError("Queries of another length than the keys: no model of ours has them.")


def pad_input(hidden_states, indices, batch, seqlen):
    """Tokens `(all tokens, ...)` at their places in zeros of shape `(batch, length, ...)`."""
    output = hidden_states.new_zeros(batch * seqlen, *hidden_states.shape[1:])
    return output.index_copy(0, indices, hidden_states).unflatten(0, (batch, seqlen))


def install(monkeypatch, takes_single_precision: bool = True) -> FlashAttention:
    """
    Put the stand-in where Transformers imports the package from, and let its check for package and GPU pass. What Transformers
    does between a model and the package stays as it is.
    """
    double = FlashAttention(takes_single_precision)
    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    package.flash_attn_func = double.flash_attn_func
    package.flash_attn_varlen_func = double.flash_attn_varlen_func
    package.flash_attn_with_kvcache = None
    padding.pad_input, padding.unpad_input = pad_input, unpad_input
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    monkeypatch.setattr(flash_loading, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(flash_loading, "_loaded_implementation", None)
    known = flash_loading.FLASH_ATTENTION_COMPATIBILITY_MATRIX
    here = {"general_availability_check": lambda: True, "supported_devices": ((lambda: True, "cpu"),)}
    monkeypatch.setitem(known, 2, known[2] | here)
    return double
