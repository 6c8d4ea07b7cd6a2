"""Touched rows are updated by AdamW of one second moment a row, others stay as they are, through the stock Trainer."""

import copy

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
from hf_bert4rec.rowwise_adam import RowwiseAdamW, rowwise_adamw

OPTIONS = {"lr": 0.1, "betas": (0.9, 0.98), "eps": 1e-2}
SELDOM = [[1, 2], [2, 4], [4], [4, 5], [2, 4], [0, 1, 2, 3, 4, 5]]  # the last step touches every row


def trained(optimizer_class, sparse, batches, weight_decay=0.0):
    """An embedding and a linear layer after one step for each batch of rows."""
    torch.manual_seed(0)
    embedding, linear = nn.Embedding(6, 4, sparse=sparse), nn.Linear(4, 2)
    parameters = [*embedding.parameters(), *linear.parameters()]
    optimizer = optimizer_class(parameters, weight_decay=weight_decay, **OPTIONS)
    for rows in batches:
        optimizer.zero_grad()
        linear(embedding(torch.tensor(rows))).square().sum().backward()
        optimizer.step()
    return embedding.weight, linear.weight, optimizer


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(6, 4), (6,)])
def test_rows_of_one_size_are_updated_as_by_adamw_without_a_first_moment(shape, weight_decay, maximize):
    options = {"lr": 0.1, "eps": 1e-2, "weight_decay": weight_decay, "maximize": maximize}
    generator = torch.Generator().manual_seed(0)
    found, expected = (torch.ones(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = RowwiseAdamW([found], betas=(0.9, 0.98), **options)
    reference = torch.optim.AdamW([expected], betas=(0.0, 0.98), **options)
    for rows in SELDOM:
        size = torch.rand(len(rows), *[1] * (len(shape) - 1), generator=generator, dtype=torch.float64) + 0.1
        values = size * torch.randn(len(rows), *shape[1:], generator=generator).sign()
        found.grad = torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=True)
        expected.grad = found.grad.to_dense()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_row_moves_along_its_gradient():
    weight = torch.zeros(5, 4, requires_grad=True)
    gradient = torch.tensor([[1.0, -2.0, 0.5, 0.0], [300.0, 0.0, 100.0, 0.0]])
    weight.grad = torch.sparse_coo_tensor(torch.tensor([[1, 4]]), gradient, weight.shape, check_invariants=True)
    RowwiseAdamW([weight], lr=0.1).step()
    expected = -0.1 * gradient / gradient.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(weight.detach()[[1, 4]], expected)


def test_rows_named_twice_count_once():
    once = torch.sparse_coo_tensor([[1, 4]], [3.0, 5.0], (6,), check_invariants=True)
    twice = torch.sparse_coo_tensor([[4, 1, 4]], [2.0, 3.0, 3.0], (6,), check_invariants=True)
    weights = [torch.zeros(6, requires_grad=True) for _ in range(2)]
    for weight, weight.grad in zip(weights, (once, twice), strict=True):
        RowwiseAdamW([weight]).step()
    assert torch.equal(*weights) and weights[0].count_nonzero() == 2


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a_dense_gradient_is_a_matter_of_adamw(weight_decay):
    found = trained(RowwiseAdamW, False, [[1, 2], [2, 4]], weight_decay)
    expected = trained(torch.optim.AdamW, False, [[1, 2], [2, 4]], weight_decay)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_a_dense_gradient_of_a_row_parameter_is_that_of_its_rows():
    weights = [torch.ones(6, requires_grad=True) for _ in range(2)]
    optimizers = [RowwiseAdamW([weight], row_parameters=weights[1:], **OPTIONS) for weight in weights]
    for rows in SELDOM[:-1]:
        sparse = torch.sparse_coo_tensor([rows], [float(row + 1) for row in rows], (6,), check_invariants=True)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = sparse if weight is weights[0] else sparse.to_dense()
            optimizer.step()
            assert weight.grad.is_sparse == (weight is weights[0])
    assert torch.equal(weights[0], weights[1])


def test_a_copy_knows_its_row_parameters():
    weight = torch.ones(6, requires_grad=True)
    copied = copy.deepcopy(RowwiseAdamW([weight], row_parameters=[weight], **OPTIONS))
    (own,) = copied.param_groups[0]["params"]
    assert own is not weight and copied.row_parameters == {own}


def test_untouched_rows_and_their_moment_stand_still():
    before, _, _ = trained(RowwiseAdamW, True, [[1, 2]], weight_decay=0.3)
    after, _, optimizer = trained(RowwiseAdamW, True, [[1, 2], [2, 4]], weight_decay=0.3)
    changed = (before != after).any(1)
    assert changed.tolist() == [False, False, True, False, True, False]
    state = optimizer.state_dict()["state"][0]
    assert (state["exp_avg_sq"] != 0).tolist() == [False, True, True, False, True, False]
    assert state["step"].tolist() == [0, 1, 2, 0, 2, 0]
    assert {getattr(kept, "shape", ()) for kept in state.values()} == {(), (6,)}  # no state of the size of the weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_counts_steps_exactly(dtype):
    weight = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
    weight.grad = torch.sparse_coo_tensor([[1]], torch.ones(1, 2, dtype=dtype), weight.shape, check_invariants=True)
    optimizer = RowwiseAdamW([weight])
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["step"][1] = state["state"][0]["num_steps"] = 100_001  # no bfloat16
    optimizer = RowwiseAdamW([weight])
    optimizer.load_state_dict(state)
    optimizer.step()
    assert optimizer.state[weight]["step"].tolist() == [0, 100_002, 0]
    assert optimizer.state[weight]["exp_avg_sq"][1].item() == pytest.approx(0.001999, rel=1e-2)


def test_a_loaded_state_goes_on_bit_for_bit(tmp_path):
    whole, _, _ = trained(RowwiseAdamW, True, [[1, 2], [2, 4], [2, 5]])
    weight, linear, optimizer = trained(RowwiseAdamW, True, [[1, 2], [2, 4]])
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    embedding, layer = nn.Embedding(6, 4, sparse=True), nn.Linear(4, 2)
    with torch.no_grad():
        embedding.weight.copy_(weight)
        layer.weight.copy_(linear)
        layer.bias.copy_(optimizer.param_groups[0]["params"][2])
    optimizer = RowwiseAdamW([*embedding.parameters(), *layer.parameters()], lr=9.0)
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    layer(embedding(torch.tensor([2, 5]))).square().sum().backward()
    optimizer.step()
    assert torch.equal(embedding.weight, whole)


def tiny(loss="gbce", **options):
    config = Bert4RecConfig(vocab_size=40, hidden_size=8, training_loss=loss, num_negatives=4, hidden_dropout_prob=0.0)
    model, arguments = Bert4RecForMaskedLM(config), TrainingArguments(use_cpu=True, weight_decay=0.1, **options)
    return model, arguments


class Histories(torch.utils.data.Dataset):
    """Eight histories of three items, the last one hidden."""

    def __len__(self):
        return 8

    def __getitem__(self, row):
        return {"input_ids": torch.tensor([row + 3, row + 4, 1]), "labels": torch.tensor([-100, -100, row + 20])}


def test_the_stock_trainer_clips_by_the_norm_over_all_gradients_sparse_or_not(tmp_path):
    norms = []
    for is_sparse in (True, False):
        torch.manual_seed(0)
        model, arguments = tiny(
            output_dir=str(tmp_path), max_steps=1, max_grad_norm=0.01, logging_steps=1, save_strategy="no"
        )
        choice = rowwise_adamw(model, arguments) if is_sparse else None
        trainer = Trainer(model, arguments, train_dataset=Histories(), optimizer_cls_and_kwargs=choice)
        clipped = []
        trainer.create_optimizer().register_step_pre_hook(
            lambda optimizer, *_, found=clipped: found.extend(
                p.grad.to_dense().norm()
                for group in optimizer.param_groups
                for p in group["params"]
                if p.grad is not None
            )
        )
        trainer.train()
        assert torch.stack(clipped).norm().item() == pytest.approx(0.01, rel=1e-3)
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert norms[0] > 0.1


def test_every_parameter_follows_the_schedule_and_item_rows_get_sparse_gradients(tmp_path):
    model, arguments = tiny(output_dir=str(tmp_path), max_steps=4, logging_steps=1, save_strategy="no")
    trainer = Trainer(
        model, arguments, train_dataset=Histories(), optimizer_cls_and_kwargs=rowwise_adamw(model, arguments)
    )
    seen = []
    trainer.create_optimizer().register_step_pre_hook(
        lambda optimizer, *_: seen.append(
            (
                {g["lr"] for g in optimizer.param_groups},
                sum(p.grad is not None and p.grad.is_sparse for g in optimizer.param_groups for p in g["params"]),
            )
        )
    )
    trainer.train()
    rate = arguments.learning_rate
    assert [rates for rates, _ in seen] == [{rate * left / 4} for left in (4, 3, 2, 1)]
    assert [count for _, count in seen] == [2] * 4  # the tied item embedding and its bias
    assert {p for g in trainer.optimizer.optimizer.param_groups for p in g["params"]} == {
        p for p in model.parameters() if p.requires_grad
    }


def test_the_whole_softmax_keeps_the_optimizer_of_the_trainer():
    model, arguments = tiny("softmax")
    assert rowwise_adamw(model, arguments) is None
    assert not model.get_input_embeddings().sparse


def test_another_optimizer_is_refused():
    model, arguments = tiny(optim="sgd")
    with pytest.raises(ValueError, match=r"optim is 'sgd', but gbce updates single rows .*; choose one of these"):
        rowwise_adamw(model, arguments)
