"""
AdamW that updates only the touched rows of the item embedding, for catalogues of millions and sampled losses.

A step of a sampled loss touches some thousand rows. Gradients then hold these rows alone (`sparse=True`), and so does the
work of the optimiser; its two moments are kept for all rows, so that a catalogue takes three times its own memory.

*Source:* `torch.optim.SparseAdam` for sparse gradients, `torch.optim.AdamW` for the rest.

*Differences from AdamW over all rows:* the moments of a row and its weight decay stand still in steps that do not touch it.
"""

import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from .item_head import Bert4RecItemHead
from .sharded_items import is_sharded


class RowwiseAdamW(torch.optim.AdamW):
    r"""
    `torch.optim.AdamW`, but parameters with a sparse gradient are updated by `torch.optim.SparseAdam`, row by row.

    Takes the arguments of `torch.optim.AdamW`. Weight decay of a sparse gradient's parameter shrinks the touched rows.

    Example:
        >>> embedding = torch.nn.Embedding(10, 4, sparse=True)
        >>> optimizer, before = RowwiseAdamW(embedding.parameters()), embedding.weight.detach().clone()
        >>> embedding(torch.tensor([3, 7])).sum().backward()
        >>> optimizer.step()
        >>> (embedding.weight != before).any(1).nonzero().flatten().tolist()
        [3, 7]
    """

    @torch.no_grad()
    def step(self, closure=None):
        """Performs a single optimization step, as `torch.optim.AdamW.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse_groups = []
        for group in self.param_groups:
            touched = [p for p in group["params"] if p.grad is not None and p.grad.is_sparse]
            if touched:
                sparse_groups.append({**group, "params": touched})
        gradients = {p: p.grad.coalesce() for group in sparse_groups for p in group["params"]}
        for parameter in gradients:
            parameter.grad = None  # AdamW passes it by
        _bare_step(torch.optim.AdamW)(self)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        if sparse_groups:
            self._update_rows(sparse_groups)
        return loss

    def _update_rows(self, groups: list[dict[str, Any]]):
        for group in groups:
            for parameter in group["params"]:
                if group["weight_decay"]:
                    rows = parameter.grad.indices()[0]
                    parameter[rows] *= 1 - group["lr"] * group["weight_decay"]
                # AdamW turns the count of a loaded state into a float32 tensor; the powers of beta would lose digits.
                step = int(self.state[parameter].get("step", 0))
                if step:
                    self.state[parameter]["step"] = step
                # SparseAdam adds epsilon before the correction of the second moment, AdamW after it.
                eps = group["eps"] * (1 - group["betas"][1] ** (step + 1)) ** 0.5
                updated = SimpleNamespace(param_groups=[group | {"params": [parameter], "eps": eps}], state=self.state)
                _bare_step(torch.optim.SparseAdam)(updated)


def _bare_step(optimizer_class: type[torch.optim.Optimizer]) -> Callable:
    """The step without what torch wraps around it: hooks shall run once for each step of ours."""
    return inspect.unwrap(optimizer_class.step)


def rowwise_adamw(
    model: PreTrainedModel, arguments: TrainingArguments
) -> tuple[type[RowwiseAdamW], dict[str, Any]] | None:
    r"""
    Switch a model with a sampled loss to sparse gradients of its item embedding, and name the optimiser that takes them.

    Args:
        model ([`Bert4RecForMaskedLM`]): The model to train.
        arguments (`TrainingArguments`): `optim` must be one of torch's AdamW.

    Returns:
        `tuple`: what `Trainer` takes as `optimizer_cls_and_kwargs`; `None`, `Trainer`'s default, for the softmax over the
        whole catalogue, which touches every row.

    Raises:
        ValueError: If `optim` is no AdamW of torch, or the item embedding is sharded over processes.

    Example:
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
        >>> model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=103, training_loss="gbce"))
        >>> arguments = TrainingArguments(use_cpu=True)
        >>> trainer = Trainer(model, arguments, optimizer_cls_and_kwargs=rowwise_adamw(model, arguments))
        >>> type(trainer.create_optimizer()).__name__
        'RowwiseAdamW'
    """
    if model.config.training_loss == "softmax":
        return None
    if is_sharded(model.get_input_embeddings().weight):
        raise ValueError(
            "The item embedding is sharded over processes, which torch's AdamW updates whole and rowwise_adamw cannot; leave "
            "optimizer_cls_and_kwargs out."
        )
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    if optimizer_class is not torch.optim.AdamW:
        raise ValueError(
            f"optim is {arguments.optim!r}, but {model.config.training_loss} updates single rows of the item embedding, "
            "which is done for 'adamw_torch' and 'adamw_torch_fused'; choose one of these, or training_loss='softmax'."
        )
    _norm_of_sparse_gradients()
    model.get_input_embeddings().sparse = True
    for module in model.modules():
        if isinstance(module, Bert4RecItemHead):
            # Between processes torch exchanges sparse gradients of embeddings only; the bias is one column.
            module.sparse_gradients = (True, arguments.world_size == 1)
    # A fused step would leave the scaling of float16 gradients to the optimiser, which rows know nothing of.
    return RowwiseAdamW, options | {"fused": False}


@functools.cache
def _norm_of_sparse_gradients() -> torch.library.Library | None:
    """Teach torch the one operator that `clip_grad_norm_` misses for sparse gradients; `None` where it knows it."""
    try:
        torch.linalg.vector_norm(torch.zeros(1).to_sparse())
        return None
    except NotImplementedError:
        pass

    def vector_norm(gradient, ord=2, dim=None, keepdim=False, *, dtype=None):
        return torch.linalg.vector_norm(gradient.coalesce().values(), ord, dtype=dtype)

    library = torch.library.Library("aten", "IMPL")  # what it registers lasts as long as it is kept
    for backend in ("SparseCPU", "SparseCUDA"):
        library.impl("linalg_vector_norm", vector_norm, backend)
    return library
