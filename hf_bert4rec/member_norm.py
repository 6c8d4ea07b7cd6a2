"""
Layer norms of an ensemble that stands side by side in one model: each member's part of a vector is normalised by itself.

*Source:* Wu & He, "Group Normalization" (ECCV 2018); with the members as groups and no other axis it is a layer norm for each.
"""

import torch
from torch import nn


class MemberNorm(nn.LayerNorm):
    r"""
    `torch.nn.LayerNorm` over equal parts of the last axis; weights and their names are those of the norm it stands for.

    Args:
        norm (`nn.LayerNorm`): Over one axis.
        num_members (`int`): How many parts; a divisor of the axis.

    Example:
        >>> norm = MemberNorm(nn.LayerNorm(4), num_members=2)
        >>> norm(torch.tensor([0.0, 2.0, 5.0, 9.0])).round(decimals=3).tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """

    def __init__(self, norm: nn.LayerNorm, num_members: int):
        super().__init__(norm.normalized_shape, eps=norm.eps, bias=norm.bias is not None)
        self.num_members = num_members

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.reshape(-1, input.shape[-1])  # (..., hidden) -> (rows, hidden)
        return nn.functional.group_norm(rows, self.num_members, self.weight, self.bias, self.eps).view(input.shape)


def normalise_by_member(module: nn.Module, num_members: int):
    """Let every `torch.nn.LayerNorm` within a module normalise the part of each member by itself."""
    if num_members == 1:
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.LayerNorm:
                setattr(parent, name, MemberNorm(child, num_members))
