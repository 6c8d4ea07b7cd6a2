"""Every field is kept by a saved folder, and what no model can be built from is refused with field, value and remedy."""

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from hf_bert4rec import Bert4RecConfig

# A value other than the default for every field of the architecture.
CHANGED = {
    "vocab_size": 23,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 100,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.5,
    "attention_probs_dropout_prob": 0.25,
    "max_position_embeddings": 50,
    "initializer_range": 0.1,
    "linear_initializer": "xavier",
    "value_initializer": "identity",
    "layer_norm_eps": 1e-5,
    "backbone": "modernbert",
    "norm_position": "pre",
    "final_layer_norm": False,
    "position_origin": "newest",
    "embedding_layer_norm": False,
    "scale_embedding": True,
    "head_layer_norm": False,
    "head_transform": False,
    "reading": "both",
    "num_members": 3,
    "training_loss": "gbce",
    "num_negatives": 7,
    "share_negatives": False,
    "gbce_t": 0.5,
    "is_decoder": True,
    "use_cache": True,
    "pad_token_id": 22,
    "mask_token_id": 21,
    "unk_token_id": 20,
    "tie_word_embeddings": False,
}


def test_the_defaults_are_the_smallest_model_of_the_paper_on_movielens_1m():
    config = Bert4RecConfig()
    assert config.vocab_size == 3706 + 3
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 64 // 32)
    assert config.intermediate_size == 4 * 64
    assert config.max_position_embeddings == 200
    assert (config.norm_position, config.position_origin, config.is_decoder) == ("post", "oldest", False)


def test_every_field_survives_a_saved_folder(tmp_path):
    own_fields = set(Bert4RecConfig.__annotations__) - {"add_cross_attention"}  # which is refused
    assert own_fields == set(CHANGED)
    assert all(getattr(Bert4RecConfig(), name) != value for name, value in CHANGED.items())
    config = Bert4RecConfig(**CHANGED)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is Bert4RecConfig
    assert {name: getattr(loaded, name) for name in CHANGED} == CHANGED
    assert loaded.to_diff_dict() == config.to_diff_dict()


def test_a_whole_number_may_stand_for_a_share():
    config = Bert4RecConfig(hidden_dropout_prob=0, attention_probs_dropout_prob=0, initializer_range=1)
    assert config.hidden_dropout_prob == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("norm_position", "middle", "norm_position is 'middle'; choose 'post' or 'pre'"),
        (
            "final_layer_norm",
            False,
            "final_layer_norm is False and norm_position 'post': .* choose norm_position 'pre'",
        ),
        ("position_origin", "first", "position_origin is 'first'; choose 'oldest' or 'newest'"),
        ("reading", "aloud", "reading is 'aloud'; choose 'masked', 'causal' or 'both'"),
        ("linear_initializer", "zero", "linear_initializer is 'zero'; choose 'normal' or 'xavier'"),
        ("value_initializer", "zero", "value_initializer is 'zero'; choose 'linear' or 'identity'"),
        ("training_loss", "ce", "training_loss is 'ce'; choose one of softmax, sampled_softmax, gbce, bce"),
        ("num_negatives", 0, "num_negatives is 0; give at least 1"),
        ("gbce_t", 1.5, "gbce_t is 1.5; give a share between 0 and 1"),
        ("hidden_act", "glue", "hidden_act is 'glue'; choose one of gelu, "),
        ("vocab_size", 0, "vocab_size is 0; give at least 1"),
        ("hidden_size", 0, "hidden_size is 0; give at least 1"),
        ("num_hidden_layers", -1, "num_hidden_layers is -1; give at least 1"),
        ("num_attention_heads", 0, "num_attention_heads is 0; give at least 1"),
        ("intermediate_size", 0, "intermediate_size is 0; give at least 1"),
        ("max_position_embeddings", 0, "max_position_embeddings is 0; give at least 1"),
        ("num_attention_heads", 3, "hidden_size 64 is not a multiple of num_attention_heads 3; change one of the two"),
        ("num_members", 3, "hidden_size 64 is not a multiple of num_members 3; change one of the two"),
        ("num_members", 0, "num_members is 0; give at least 1"),
        ("hidden_dropout_prob", 1.0, "hidden_dropout_prob is 1.0; give a share from 0 up to, not including, 1"),
        ("hidden_dropout_prob", float("nan"), "hidden_dropout_prob is nan; give a share"),
        ("attention_probs_dropout_prob", -0.1, "attention_probs_dropout_prob is -0.1; give a share"),
        ("add_cross_attention", True, "add_cross_attention is True; .*leave it False"),
        ("hidden_size", "64", "Field 'hidden_size' expected int, got str"),
        ("num_hidden_layers", 2.0, "Field 'num_hidden_layers' expected int, got float"),
        ("is_decoder", 1, "Field 'is_decoder' expected bool, got int"),
    ],
)
def test_a_value_that_no_model_can_be_built_from_is_refused(field, value, message):
    with pytest.raises(StrictDataclassError, match=message):
        Bert4RecConfig(**{field: value})


def test_a_sampled_loss_without_an_item_to_draw_is_refused():
    with pytest.raises(
        StrictDataclassError, match="'gbce' needs items to draw from, vocab_size is 3; give the number"
    ):
        Bert4RecConfig(vocab_size=3, pad_token_id=0, training_loss="gbce")


def test_a_field_that_is_assigned_later_keeps_its_type():
    config = Bert4RecConfig()
    with pytest.raises(StrictDataclassError, match="Field 'hidden_size' expected int, got str"):
        config.hidden_size = "64"
