"""What is written and read back: folders, classes, data types, the meta device, another size of the vocabulary."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecModel

SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 10,
    "hidden_dropout_prob": 0.0,
}
TOKENS = torch.tensor([[9, 3, 7, 1, 0, 0], [5, 5, 8, 20, 11, 1]])
VARIANTS = [
    {"norm_position": "post"},
    {"norm_position": "pre", "position_origin": "newest"},
    {"tie_word_embeddings": False},
    {"norm_position": "pre", "tie_word_embeddings": False, "head_layer_norm": False, "is_decoder": True},
    {"norm_position": "pre", "embedding_layer_norm": False},
]


def tiny_model(**changes):
    """A model in evaluation mode with random numbers in every parameter."""
    model = Bert4RecForMaskedLM(Bert4RecConfig(**SIZES | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_folder_gives_the_same_scores_through_the_auto_classes(tmp_path, variant):
    model = tiny_model(**variant)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is Bert4RecConfig
    loaded, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is Bert4RecForMaskedLM
    assert not any(report.values())
    assert not loaded.training
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is Bert4RecModel
    assert torch.equal(base(TOKENS).last_hidden_state, model.bert4rec(TOKENS).last_hidden_state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_saved_as_safetensors_and_each_once(tmp_path, variant):
    model = tiny_model(**variant)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    saved = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == sum(p.numel() for p in model.parameters())
    assert ("cls.predictions.decoder.weight" in saved) == (not model.config.tie_word_embeddings)


def test_untied_scores_come_from_weights_of_their_own():
    model = tiny_model(tie_word_embeddings=False)
    before = model(TOKENS).logits
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2)
        model.get_output_embeddings().bias.mul_(2)
    torch.testing.assert_close(model(TOKENS).logits, before * 2)
    tied = tiny_model()
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_on_the_meta_device_is_filled_by_loading(tmp_path, variant):
    model = tiny_model(**variant)
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = Bert4RecForMaskedLM(model.config)
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    assert not list(empty.buffers())  # which no checkpoint would fill
    empty.load_state_dict(Bert4RecForMaskedLM.from_pretrained(tmp_path).state_dict(), assign=True)
    empty.tie_weights()
    assert torch.equal(empty.eval()(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_what_a_folder_of_the_encoder_lacks_is_drawn_anew(tmp_path, norm_position):
    base = Bert4RecModel(Bert4RecConfig(**SIZES, norm_position=norm_position, initializer_range=0.1))
    base.save_pretrained(tmp_path)
    model, report = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"]
    assert all(name.startswith("cls.predictions.") for name in report["missing_keys"])
    head = model.cls.predictions
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert (head.bias == 0).all()
    assert (head.transform.LayerNorm.weight == 1).all()
    assert 0.05 < head.transform.dense.weight.std() < 0.15
    assert torch.equal(model.bert4rec(TOKENS).last_hidden_state, base.eval()(TOKENS).last_hidden_state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_folder_loads_in_the_type_that_is_asked_for(tmp_path, dtype):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    torch.testing.assert_close(loaded(TOKENS).logits.float(), model(TOKENS).logits, rtol=0.1, atol=0.3)


@pytest.mark.parametrize("scale_embedding", [False, True])
@pytest.mark.parametrize("tie_word_embeddings", [True, False])
def test_the_vocabulary_can_grow_and_shrink(tmp_path, tie_word_embeddings, scale_embedding):
    model = tiny_model(tie_word_embeddings=tie_word_embeddings, scale_embedding=scale_embedding)
    tokens, mask = TOKENS, TOKENS != 0
    with torch.no_grad():  # a graph that is kept would remember the old shapes
        before = model(tokens, mask).logits[mask]
        for vocab_size in (30, 23, 21):
            model.resize_token_embeddings(vocab_size)
            model.save_pretrained(tmp_path)
            loaded = Bert4RecForMaskedLM.from_pretrained(tmp_path)
            assert loaded.config.vocab_size == model.config.vocab_size == vocab_size
            embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
            assert (head.weight is embeddings.weight) == tie_word_embeddings
            logits = model(tokens, mask).logits[mask]
            assert logits.shape[-1] == vocab_size
            torch.testing.assert_close(logits[:, :23], before[:, :vocab_size])
            torch.testing.assert_close(loaded(tokens, mask).logits[mask], logits)
    model.train()(tokens, labels=torch.where(mask, 20, -100)).loss.backward()
    assert model.get_output_embeddings().weight.grad.shape == (21, 16)


def test_new_weights_are_drawn_as_the_configuration_says():
    model = Bert4RecForMaskedLM(Bert4RecConfig(**SIZES | {"vocab_size": 5000}, initializer_range=0.1))
    embeddings = model.get_input_embeddings().weight
    assert embeddings.std().item() == pytest.approx(0.1, rel=0.02)
    assert (embeddings[0] == 0).all()
    assert model.get_output_embeddings().weight is embeddings
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        if name.endswith("LayerNorm.weight"):
            assert (parameter == 1).all(), name


@pytest.mark.parametrize("tie_word_embeddings", [True, False])
@pytest.mark.parametrize(("linear_initializer", "std"), [("normal", 0.05), ("xavier", (2 / (64 + 256)) ** 0.5)])
def test_linear_layers_start_as_the_configuration_says(linear_initializer, std, tie_word_embeddings):
    options = {"linear_initializer": linear_initializer, "tie_word_embeddings": tie_word_embeddings}
    model = Bert4RecForMaskedLM(Bert4RecConfig(initializer_range=0.05, **options))
    for layer in model.bert4rec.encoder.layer:
        assert layer.intermediate.dense.weight.std().item() == pytest.approx(std, rel=0.05)
        assert (layer.intermediate.dense.bias == 0).all()
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_values_may_start_as_the_identity(norm_position):
    model = Bert4RecForMaskedLM(Bert4RecConfig(value_initializer="identity", norm_position=norm_position))
    identity = torch.eye(model.config.hidden_size)
    for attention in (layer.attention for layer in model.bert4rec.encoder.layer):
        torch.testing.assert_close(attention.self.value.weight, identity)
        torch.testing.assert_close(attention.output.dense.weight, identity)
        assert attention.self.query.weight.std() > 0 and (attention.output.dense.bias == 0).all()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"vocab_size": 30}, "cls.predictions.bias"),
        ({"hidden_size": 32}, "cls.predictions.transform.dense.bias"),
        ({"intermediate_size": 30}, "bert4rec.encoder.layer.1.intermediate.dense.bias"),
        ({"max_position_embeddings": 12}, "bert4rec.embeddings.position_embeddings.weight"),
    ],
)
def test_every_size_is_that_of_a_weight(change, name):
    assert tiny_model(**change).state_dict()[name].shape[0] == next(iter(change.values()))
    assert len(tiny_model(num_hidden_layers=3).bert4rec.encoder.layer) == 3


def test_only_the_biases_of_the_keys_are_frozen_and_they_change_no_score(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    for mode in (True, False):
        frozen = [name for name, parameter in model.train(mode).named_parameters() if not parameter.requires_grad]
        assert frozen == [f"bert4rec.encoder.layer.{layer}.attention.self.key.bias" for layer in (0, 1)]
    before = model(TOKENS).logits
    for name in frozen:
        torch.nn.init.normal_(model.get_parameter(name))
    torch.testing.assert_close(model(TOKENS).logits[TOKENS != 0], before[TOKENS != 0], rtol=1e-4, atol=1e-4)


def test_a_folder_that_is_split_into_parts_loads(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(AutoModelForMaskedLM.from_pretrained(tmp_path)(TOKENS).logits, model(TOKENS).logits)
