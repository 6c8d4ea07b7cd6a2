"""ModernBERT's blocks compute what Transformers' ModernBERT computes, and do all that BERT's blocks are asked to do."""

import copy

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import ModernBertConfig, ModernBertModel

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecModel
from hf_bert4rec.attention_rollout import AttentionRollout
from hf_bert4rec.encoders import position_inputs
from hf_bert4rec.ranking_graph import RankingGraph
from hf_bert4rec.scoring import ModelScorer

SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 10,
    "hidden_dropout_prob": 0.0,
}
MODERN = {"backbone": "modernbert", "norm_position": "pre", "embedding_layer_norm": False}
TOKENS = torch.tensor([[4, 9, 3, 7, 12, 1], [0, 0, 5, 8, 20, 1], [6, 1, 0, 0, 0, 0]])


def tiny_model(**changes):
    """Random numbers in every parameter."""
    model = Bert4RecForMaskedLM(Bert4RecConfig(**SIZES | MODERN | changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("hidden_act", ["gelu", "silu"])
def test_states_equal_those_of_modernbert_on_the_same_weights(hidden_act):
    ours = tiny_model(embedding_layer_norm=True, layer_norm_eps=1e-5, hidden_act=hidden_act).bert4rec
    for norm in (ours.embeddings.LayerNorm, ours.LayerNorm):
        torch.nn.init.zeros_(norm.bias)  # ModernBERT's have none
    sizes = {name: SIZES[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    theirs = ModernBertModel(
        ModernBertConfig(
            **sizes,
            intermediate_size=SIZES["intermediate_size"],
            hidden_activation=hidden_act,
            layer_types=["full_attention"] * SIZES["num_hidden_layers"],
            **{f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")},
        )
    ).eval()
    names = {"embeddings.word_embeddings.": "embeddings.tok_embeddings.", "embeddings.LayerNorm.": "embeddings.norm."}
    names |= {"encoder.layer.": "layers.", "LayerNorm.": "final_norm."}
    weights = {}
    for name, weight in ours.state_dict().items():
        start = next(start for start in names if name.startswith(start))
        if not name.endswith("LayerNorm.bias"):
            weights[names[start] + name.removeprefix(start)] = weight
    theirs.load_state_dict(weights)
    mask = TOKENS != 0
    found = ours(TOKENS, mask.long()).last_hidden_state
    torch.testing.assert_close(found[mask], theirs(TOKENS, mask.long()).last_hidden_state[mask], atol=1e-5, rtol=1e-5)


def test_only_distances_between_events_count():
    model, history = tiny_model(), TOKENS[:1]
    places = torch.arange(6)[None]
    expected = model(history, position_ids=places).logits
    torch.testing.assert_close(model(history, position_ids=places + 3).logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model(history, position_ids=2 * places).logits, expected, atol=1e-2)
    assert not any("position_embeddings" in name for name in model.state_dict())


def test_angles_are_those_of_the_positions_given():
    (cosines, sines) = position_inputs(Bert4RecConfig(**SIZES | MODERN), torch.tensor([[0, 3]]))["position_embeddings"]
    angles = 3 * 160_000 ** (-torch.tensor([0, 2, 4, 6, 0, 2, 4, 6]) / 8)
    torch.testing.assert_close(cosines, torch.stack([torch.ones(8), angles.cos()])[None])
    torch.testing.assert_close(sines, torch.stack([torch.zeros(8), angles.sin()])[None])
    assert position_inputs(Bert4RecConfig(**SIZES), torch.tensor([[0, 3]])) == {}


@pytest.mark.parametrize("linear_initializer", ["normal", "xavier"])
def test_values_may_start_as_the_identity_and_keep_what_was_saved(tmp_path, linear_initializer):
    config = Bert4RecConfig(**SIZES | MODERN, value_initializer="identity", linear_initializer=linear_initializer)
    model = Bert4RecModel(config)
    for layer in model.encoder.layer:
        torch.testing.assert_close(layer.attn.Wqkv.weight[32:], torch.eye(16))
        torch.testing.assert_close(layer.attn.Wo.weight, torch.eye(16))
        assert layer.attn.Wqkv.weight[:32].std() > 0.01
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    loaded = Bert4RecModel.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, msg=name)


def test_attention_follows_the_implementation_that_is_set():
    model = tiny_model()
    expected = model(TOKENS).logits
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    found = twin(TOKENS, output_attentions=True, output_hidden_states=True)
    assert [attention.shape for attention in found.attentions] == [(3, 2, 6, 6)] * 3
    assert len(found.hidden_states) == 4
    torch.testing.assert_close(found.logits[TOKENS != 0], expected[TOKENS != 0], atol=1e-4, rtol=1e-4)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("norm", [True, False])
def test_the_first_block_normalises_what_the_embeddings_do_not(norm):
    first = tiny_model(embedding_layer_norm=norm).bert4rec.encoder.layer[0]
    assert isinstance(first.attn_norm, torch.nn.Identity if norm else torch.nn.LayerNorm)


def test_dropout_of_each_place_is_that_of_the_configuration():
    layer = tiny_model(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.4).bert4rec.encoder.layer[1]
    assert (layer.attn.out_drop.p, layer.mlp.drop.p, layer.attn.attention_dropout) == (0.3, 0.3, 0.4)


@pytest.mark.parametrize("reading", ["masked", "causal", "both"])
def test_ranking_and_exported_graph_score_alike(reading):
    model = tiny_model(reading=reading)
    histories = [row[(row > 1)].numpy() for row in TOKENS]
    expected = ModelScorer(model)(None, histories)(0, 23)
    with torch.no_grad():
        scores, _ = RankingGraph(model)(TOKENS, (TOKENS != 0).long())
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


def test_one_step_of_both_objectives_reads_parts_as_it_reads_the_whole(monkeypatch):
    model = tiny_model().train()
    labels = TOKENS.masked_fill(TOKENS == 0, -100)
    inputs = {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long(), "labels": labels}
    inputs["causal_rows"] = torch.tensor([True, False, True])
    loss = model(**inputs).loss
    monkeypatch.setattr("hf_bert4rec.modeling_bert4rec.can_be_read_in_parts", lambda *args, **kwargs: False)
    torch.testing.assert_close(model(**inputs).loss, loss)


def test_weights_of_a_page_come_from_its_attention():
    weights = AttentionRollout(tiny_model())(np.array([4, 9, 3]))
    assert weights.shape == (3,)
    assert (weights > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_position": "post"}, "its blocks normalise what they read; choose norm_position 'pre'"),
        (
            {"num_attention_heads": 16},
            "hidden_size 16 over num_attention_heads 16 is not even, .* change one of the two",
        ),
        ({"backbone": "albert"}, "backbone is 'albert'; choose 'bert' or 'modernbert'"),
    ],
)
def test_what_the_blocks_cannot_be_built_from_is_refused(change, message):
    with pytest.raises(StrictDataclassError, match=message):
        Bert4RecConfig(**SIZES | MODERN | change)
