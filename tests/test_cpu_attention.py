"""Attention in bfloat16 against torch's own: outputs, gradients, masks and dropout."""

import pytest
import torch
from transformers import TrainingArguments

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, cpu_attention
from hf_bert4rec.cpu_attention import (
    CPU_BF16,
    choose_attention,
    cpu_bf16_attention,
    has_bf16_products,
)


def projections(dtype=torch.bfloat16, queries=9):
    shapes = [(3, 2, queries, 8), (3, 2, 9, 8), (3, 2, 9, 8)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def padding_mask():
    mask = torch.ones(3, 1, 1, 9, dtype=torch.bool)
    mask[1, :, :, 5:] = False
    mask[2, :, :, :2] = False
    return mask


CASES = {
    "no mask": {},
    "padding": {"attention_mask": padding_mask()},
    "a mask of its own for each query": {"attention_mask": padding_mask() & torch.ones(9, 9, dtype=torch.bool).tril()},
    "causal": {"is_causal": True},
    "scale": {"scaling": 0.7},
}


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_float32(case):
    arguments = {"attention_mask": None} | CASES[case]
    given = projections()
    exact = [tensor.detach().float().requires_grad_() for tensor in given]
    module = torch.nn.Module()
    found, _ = cpu_bf16_attention(module, *given, **arguments)
    if "attention_mask" in CASES[case] and arguments["attention_mask"].shape[2] > 1:
        found = found[:2]  # a left-padded causal row begins with queries that see nothing
    mask, scale = arguments["attention_mask"], arguments.get("scaling")
    expected = torch.nn.functional.scaled_dot_product_attention(
        *exact, attn_mask=mask, is_causal="is_causal" in arguments, scale=scale
    ).transpose(1, 2)[: len(found)]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)
    weights = torch.randn(expected.shape)
    (found * weights.bfloat16()).sum().backward()
    (expected * weights).sum().backward()
    for tensor, reference in zip(given, exact, strict=True):
        assert (tensor.grad.float() - reference.grad).norm() < 0.02 * reference.grad.norm()


def test_other_precisions_go_to_torch():
    given = projections(torch.float64, queries=4)
    found, _ = cpu_bf16_attention(torch.nn.Module(), *given, padding_mask(), is_causal=False)
    expected = torch.nn.functional.scaled_dot_product_attention(*given, attn_mask=padding_mask())
    assert torch.equal(found, expected.transpose(1, 2))


def test_dropout_drops_weights_and_the_gradient_with_them():
    query, key, value = projections()
    with torch.no_grad():
        outputs = [
            cpu_bf16_attention(torch.nn.Module(), query, key, value, None, dropout=0.4)[0].float() for _ in range(400)
        ]
        whole, _ = cpu_bf16_attention(torch.nn.Module(), query, key, value, None)
    assert not torch.equal(outputs[0], outputs[1])
    # The mean of many drawings is the output without dropout.
    assert (torch.stack(outputs).mean(0) - whole).abs().mean() < 0.1 * whole.float().abs().mean()
    torch.manual_seed(1)
    dropped, _ = cpu_bf16_attention(torch.nn.Module(), query, key, value, None, dropout=0.4)
    dropped.float().sum().backward()
    # The sum of outputs is linear in the values: its gradient times the values is the sum again.
    assert (value.grad * value).sum().item() == pytest.approx(dropped.float().sum().item(), abs=2)


@pytest.mark.parametrize("backbone", ["bert", "modernbert"])
def test_a_model_trains_with_it_as_without(backbone, recwarn):
    sizes = {"vocab_size": 50, "hidden_dropout_prob": 0.0, "norm_position": "pre", "backbone": backbone}
    torch.manual_seed(0)
    model = Bert4RecForMaskedLM(Bert4RecConfig(**sizes, embedding_layer_norm=False)).train()
    tokens = torch.randint(3, 50, (4, 20))
    tokens[1, 12:] = 0
    labels = torch.where((torch.rand(tokens.shape) < 0.3) & (tokens != 0), tokens, -100)
    inputs = {"input_ids": tokens, "labels": labels, "causal_rows": torch.tensor([True, False, True, False])}
    expected = model(**inputs).loss
    expected.backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    model.zero_grad()
    model.set_attn_implementation(CPU_BF16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    for name, gradient in gradients.items():
        difference = (model.get_parameter(name).grad - gradient).norm()
        assert difference < 0.05 * gradient.norm() + 1e-4, name


def test_under_autocast_the_blocks_states_are_in_the_type_of_the_products():
    dtypes = []
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=60)).train()
    for layer in model.bert4rec.encoder.layer:
        layer.attention.register_forward_pre_hook(lambda module, inputs: dtypes.append(inputs[0].dtype))
    tokens = torch.full((2, 6), 5)
    labels = torch.full_like(tokens, -100)
    labels[:, 2] = 7
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss.backward()
    assert dtypes and set(dtypes) == {torch.bfloat16}
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}


@pytest.mark.parametrize(("bf16", "has_products"), [(True, False), (True, True), (False, False)])
def test_training_in_bf16_warns_where_a_processor_has_no_instructions_for_it(monkeypatch, caplog, bf16, has_products):
    monkeypatch.setattr(cpu_attention, "has_bf16_products", lambda: has_products)
    model = Bert4RecForMaskedLM(
        Bert4RecConfig(vocab_size=20, hidden_size=16, num_attention_heads=2, intermediate_size=8)
    )
    with caplog.at_level("WARNING"):
        choose_attention(model, TrainingArguments("unused", bf16=bf16, use_cpu=True, report_to="none"))
    assert ("leave it out" in caplog.text) == (bf16 and not has_products)
    assert (model.config._attn_implementation == CPU_BF16) == bf16


def test_bf16_products_are_those_of_the_accelerator_or_the_processor(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for supported in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda found=supported: found)
        assert has_bf16_products() == supported
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert has_bf16_products()


def test_without_rows_nothing_is_attended_to():
    query = torch.randn(0, 2, 9, 8, dtype=torch.bfloat16)
    assert cpu_bf16_attention(torch.nn.Module(), query, query, query, None)[0].shape == (0, 9, 2, 8)
