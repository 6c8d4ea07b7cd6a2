"""The item embedding beside the head: the gradient of both is the plain sum, whatever has been done to the embedding."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
from hf_bert4rec.item_embeddings import embedding_beside_head


class LooksUpByItself(nn.Embedding):
    def forward(self, tokens):
        return functional.embedding(tokens, self.weight, self.padding_idx)


def as_it_is(model):
    pass


def scaled(model):
    model.get_input_embeddings().scale_grad_by_freq = True


def renormed(model):
    model.get_input_embeddings().max_norm = 0.01


def of_another_class(model):
    embedding = LooksUpByItself(60, 16, padding_idx=0)
    embedding.weight = model.get_input_embeddings().weight
    model.set_input_embeddings(embedding)


def hooked(hook):
    return lambda model: model.get_input_embeddings().register_forward_hook(hook)


CHANGES = {
    "as it is": as_it_is,
    "scaled by frequency": scaled,
    "renormed": renormed,
    "another class": of_another_class,
    "reads the weight": hooked(lambda module, inputs, output: output + 0.1 * module.weight.sum()),
    "looks up again": hooked(lambda module, inputs, output: output + functional.embedding(inputs[0], module.weight)),
    "detached": hooked(lambda module, inputs, output: output.detach()),
}


def trained(change, beside: bool, monkeypatch, dtype=torch.float64):
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "hidden_dropout_prob": 0.0}
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=60, **sizes)).to(dtype).train()
    change(model)
    if not beside:
        monkeypatch.setattr(
            "hf_bert4rec.modeling_bert4rec.embedding_beside_head", lambda embedding, head: (embedding, head.weight)
        )
    tokens = torch.randint(3, 60, (4, 9))
    tokens[1, 6:] = 0
    labels = torch.where(torch.rand(tokens.shape) < 0.4, tokens, -100).masked_fill(tokens == 0, -100)
    causal_rows = torch.tensor([True, False, True, False])
    loss = model(tokens, attention_mask=tokens.ne(0).long(), labels=labels, causal_rows=causal_rows).loss
    loss.backward()
    return loss.detach(), model.get_input_embeddings().weight.grad


@pytest.mark.parametrize("change", CHANGES)
def test_the_gradient_is_the_sum_of_the_head_s_and_the_embedding_s(monkeypatch, change):
    found = trained(CHANGES[change], True, monkeypatch)
    torch.testing.assert_close(found, trained(CHANGES[change], False, monkeypatch))
    assert found[1].layout == torch.strided


@pytest.mark.parametrize(
    ("change", "dtype", "is_tied", "is_kept"),
    [
        (as_it_is, torch.float32, True, False),
        (as_it_is, torch.bfloat16, True, True),
        (as_it_is, torch.float32, False, True),
        (scaled, torch.float32, True, True),
        (renormed, torch.float32, True, True),
    ],
)
def test_what_cannot_share_a_gradient_is_read_as_it_is(change, dtype, is_tied, is_kept):
    model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=60, tie_word_embeddings=is_tied)).to(dtype)
    change(model)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    found, weight = embedding_beside_head(embedding, head)
    assert (found is embedding, weight is head.weight) == (is_kept, is_kept)
    assert embedding.weight is model.get_input_embeddings().weight
    assert not embedding.sparse
    assert torch.equal(weight, head.weight)
    assert torch.equal(found.weight, embedding.weight)
