"""
Dropout that costs a fifth of torch's on a CPU: sixteen random bits decide on each value, where torch draws a number.

*Source:* Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (JMLR 2014).

*Differences:* on a CPU the probability is rounded to a multiple of 1/65536, and what is kept is scaled by exactly that. The
bits come from torch's global generator, as those of `torch.nn.Dropout` do.
"""

import torch
from torch import nn

NUM_CHANCES = 1 << 16
DRAWS_PER_NUMBER = 4  # a random 64-bit number holds four draws of 16 bits


class _DropByBits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: torch.Tensor, num_dropping: int) -> torch.Tensor:
        size = inputs.numel()
        numbers = torch.empty(-(-size // DRAWS_PER_NUMBER), dtype=torch.int64).random_(-(1 << 63), None)
        draws = numbers.view(torch.int16)[:size].view(inputs.shape)
        is_kept = draws >= num_dropping - NUM_CHANCES // 2
        ctx.save_for_backward(is_kept)
        ctx.scale = NUM_CHANCES / (NUM_CHANCES - num_dropping)
        return (inputs * is_kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (is_kept,) = ctx.saved_tensors
        return (gradient * is_kept).mul_(ctx.scale), None


class BitDropout(nn.Dropout):
    r"""
    `torch.nn.Dropout` with a faster draw on a CPU; elsewhere, and under a compiler, torch's own.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> dropped = BitDropout(0.5)(torch.ones(10_000))
        >>> sorted(dropped.unique().tolist()), 0.48 < dropped.count_nonzero() / 10_000 < 0.52
        ([0.0, 2.0], tensor(True))
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        num_dropping = round(self.p * NUM_CHANCES)
        if not self.training or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        return _DropByBits.apply(input, num_dropping) if 0 < num_dropping < NUM_CHANCES else super().forward(input)


def draw_dropout_from_bits(module: nn.Module):
    """Replace every `torch.nn.Dropout` within a module."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, BitDropout(child.p))
