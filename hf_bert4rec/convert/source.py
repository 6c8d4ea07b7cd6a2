"""
What a project's reader hands over, and the checked way to it: settings of the right type, weights that are all used.

*Source:* none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration_bert4rec import FIRST_ITEM_TOKEN, Bert4RecConfig


@dataclass(kw_only=True)
class Converted:
    r"""
    A model of another project in our terms.

    Args:
        source (`str`): Whose model it was, for people.
        config ([`Bert4RecConfig`]): The architecture.
        weights (`dict`): By our names; what is tied is there once.
        item_ids (`list`, *optional*): Raw ids in token order; `None` where the checkpoint does not hold them.
        items_hint (`str`): How to write the file of `--items`, where there is none.
    """

    source: str
    config: Bert4RecConfig
    weights: dict[str, torch.Tensor]
    item_ids: list[Any] | None
    items_hint: str


class SourceWeights:
    r"""
    The weights of a checkpoint, each to be taken once.

    Args:
        state (`Mapping`): Tensors by the names of the project.
        source (`str`): Whose model it is, for errors.

    Raises:
        ValueError: If there is something else than tensors.

    Example:
        >>> weights = SourceWeights({"dense.weight": torch.ones(2, 2), "dense.bias": torch.zeros(2)}, "A model")
        >>> sorted(weights.take("dense", "output.dense"))
        ['output.dense.bias', 'output.dense.weight']
        >>> weights.refuse_the_rest()
    """

    def __init__(self, state: Mapping[str, Any], source: str):
        for name, value in state.items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"{source}: its weights hold {name}, which is no tensor; give an unchanged checkpoint."
                )
        self.state, self.source = {name: tensor.detach().float() for name, tensor in state.items()}, source

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of this name, which must be there."""
        if name not in self.state:
            raise ValueError(f"{self.source}: its weights have no {name}, so that it is another architecture.")
        return self.state.pop(name)

    def take(self, name: str, our_name: str) -> dict[str, torch.Tensor]:
        """Weight and bias of a module, by its name here."""
        return {f"{our_name}.{part}": self.tensor(f"{name}.{part}") for part in ("weight", "bias")}

    def num_layers(self, prefix: str) -> int:
        """How many modules are numbered behind the prefix; at least one, so that it is missed by name."""
        return max(1, len({name[len(prefix) :].split(".")[0] for name in self.state if name.startswith(prefix)}))

    def refuse_the_rest(self):
        """A weight that has no place here would be missed in every score."""
        if self.state:
            raise ValueError(
                f"{self.source}: there is no place here for {', '.join(sorted(self.state)[:3])}"
                f"{' and others' if len(self.state) > 3 else ''}, so that scores would differ; it is not converted."
            )


def with_special_tokens(items: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    r"""
    Rows of a catalogue behind the rows of the special tokens.

    Args:
        items (`torch.Tensor` of shape `(num_items, ...)`): One row per item.
        mask (`torch.Tensor` of shape `(...)`, *optional*): The row of [MASK]; zero by default, like the others.

    Returns:
        `torch.Tensor` of shape `(num_items + 3, ...)`.

    Example:
        >>> with_special_tokens(torch.tensor([7.0, 8.0]), torch.tensor(1.0))
        tensor([0., 1., 0., 7., 8.])
    """
    special = items.new_zeros(FIRST_ITEM_TOKEN, *items.shape[1:])
    if mask is not None:
        special[1] = mask
    return torch.cat([special, items])


def setting(settings: Mapping[str, Any], name: str, kind: type | tuple[type, ...], source: str) -> Any:
    """A value of the checkpoint's own configuration, which must be there and of its type."""
    value = settings.get(name)
    if not isinstance(value, kind):
        raise ValueError(
            f"{source}: its settings have no usable {name} (found {value!r}); give an unchanged checkpoint."
        )
    return value


__all__ = ["Converted", "SourceWeights", "setting", "with_special_tokens"]
