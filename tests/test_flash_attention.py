"""Transformers' flash attention over a stand-in for its package: the scores, losses and gradients of SDPA and eager."""

import itertools

import numpy as np
import pytest
import torch
from flash_attention_double import install
from transformers import pipeline

from hf_bert4rec import (
    Bert4RecConfig,
    Bert4RecForCausalLM,
    Bert4RecForMaskedLM,
    Bert4RecForSequenceClassification,
    Bert4RecForTokenClassification,
    Bert4RecModel,
    Bert4RecTokenizer,
)
from hf_bert4rec.scoring import ModelScorer

SIZES = {"vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": 10}
SIZES |= {"hidden_dropout_prob": 0.0}
HISTORIES = [[4, 1], [9, 3, 7, 1], [5, 5, 8, 20, 11, 6, 1], [1]]
LONG = [[4, 7, 12, 5, 9, 13, 6, 8, 21, 10, 17, 3, 16, 1], [9, 3, 1]]  # the first has more events than the window
FULL = [[9, 3, 7, 1], [5, 20, 11, 1]]
BLOCKS = [
    {"norm_position": "post"},
    {"norm_position": "pre", "position_origin": "newest"},
    {"norm_position": "pre", "backbone": "modernbert"},
]
NAMES = ["post", "pre", "modernbert"]
OTHERS = ("sdpa", "eager")


@pytest.fixture
def flash(monkeypatch):
    return install(monkeypatch)


def tiny_model(model_class=Bert4RecForMaskedLM, **changes):
    model = model_class(Bert4RecConfig(**SIZES | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def padded(histories, side="right"):
    tokens = torch.zeros(len(histories), max(map(len, histories)), dtype=torch.long)
    for row, history in enumerate(histories):
        start = 0 if side == "right" else tokens.shape[1] - len(history)
        tokens[row, start : start + len(history)] = torch.tensor(history)
    return tokens


BATCHES = {
    "padded on the right": padded(HISTORIES),
    "padded on the left": padded(HISTORIES, "left"),
    "without padding": padded(FULL),
    "of one row": padded(FULL[:1]),
    "of one row, padded on the left": padded(HISTORIES, "left")[1:2],
    "longer than the window": padded(LONG),
    "longer than the window, padded on the left": padded(LONG, "left"),
}


def by_implementation(model, compute):
    """What is computed with flash attention, and with each of the others."""
    found = {}
    for implementation in ("flash_attention_2", *OTHERS):
        model.set_attn_implementation(implementation)
        found[implementation] = compute()
    return found.pop("flash_attention_2"), list(found.values())


def assert_agreement(model, compute):
    found, expected = by_implementation(model, compute)
    for other in expected:
        torch.testing.assert_close(found, other, rtol=0, atol=1e-5)


def read_events(tokens):
    """Where a model reads an event, which is not padding and within the newest ten of its row."""
    is_event = tokens != 0
    return is_event & (is_event.flip(1).cumsum(1).flip(1) <= SIZES["max_position_embeddings"])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("reading", ["masked", "causal", "both"])
@pytest.mark.parametrize("blocks", BLOCKS, ids=NAMES)
def test_scores_are_those_of_sdpa_and_eager(flash, blocks, reading, batch):
    tokens = BATCHES[batch]
    model = tiny_model(reading=reading, **blocks)
    with torch.no_grad():
        assert_agreement(model, lambda: model(tokens).logits[read_events(tokens)])
        assert_agreement(model, lambda: model(tokens, (tokens != 0).long()).logits[read_events(tokens)])
        assert_agreement(model, lambda: model(tokens, logits_to_keep=tokens == 1).logits)
        assert_agreement(model, lambda: model.user_vectors(tokens))
    causal = {"masked": {False}, "causal": {True}, "both": {False, True}}[reading]
    name = "flash_attn_func" if bool(read_events(tokens).all()) else "flash_attn_varlen_func"
    assert set(flash.calls) == {(name, is_causal) for is_causal in causal}


@pytest.mark.parametrize("is_decoder", [False, True])
@pytest.mark.parametrize("blocks", BLOCKS, ids=NAMES)
def test_causal_attention_is_that_of_sdpa_and_eager_and_so_is_its_absence_in_a_decoder(flash, blocks, is_decoder):
    model = tiny_model(Bert4RecModel, is_decoder=is_decoder, **blocks)
    for tokens, is_causal in itertools.product(BATCHES.values(), (None, False, True)):
        flash.calls.clear()
        with torch.no_grad():
            assert_agreement(
                model,
                lambda: model(tokens, is_causal=is_causal).last_hidden_state[read_events(tokens)],  # noqa: B023
            )
        assert {causal for _, causal in flash.calls} == {is_decoder if is_causal is None else is_causal}


@pytest.mark.parametrize("blocks", BLOCKS, ids=NAMES)
def test_the_causal_model_and_the_heads_of_users_and_events_agree(flash, blocks):
    for tokens in BATCHES.values():
        for model_class in (
            Bert4RecForCausalLM,
            Bert4RecForSequenceClassification,
            Bert4RecForTokenClassification,
        ):
            model = tiny_model(model_class, **blocks)

            def logits(model=model, tokens=tokens):
                found = model(tokens).logits
                return found if found.ndim == 2 else found[read_events(tokens)]

            with torch.no_grad():
                assert_agreement(model, logits)


def loss_and_gradients(model, **inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return {"loss": loss.detach()} | {
        name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None
    }


@pytest.mark.parametrize("causal_rows", [None, [True, False, True, False], [True] * 4])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("blocks", [*BLOCKS, {"is_decoder": True}], ids=[*NAMES, "decoder"])
def test_losses_and_gradients_of_both_objectives_agree(flash, blocks, side, causal_rows):
    tokens = padded([[4, 6, 8], [9, 3, 7], [5, 5, 8, 20, 11], [7, 9, 9, 12]], side)
    labels = torch.where((tokens == 9) | (tokens == 8), tokens, -100)
    model = tiny_model(**blocks).train()
    inputs = {"input_ids": tokens, "attention_mask": (tokens != 0).long(), "labels": labels}
    inputs["causal_rows"] = None if causal_rows is None else torch.tensor(causal_rows)
    assert_agreement(model, lambda: loss_and_gradients(model, **inputs))
    del inputs["attention_mask"]  # rows in parts of like length need one
    assert_agreement(model, lambda: loss_and_gradients(model, **inputs))
    assert flash.calls


def test_gradient_checkpointing_changes_nothing(flash):
    tokens = padded(HISTORIES)
    labels = torch.where(tokens == 1, 7, -100)
    model = tiny_model().train()
    model.set_attn_implementation("flash_attention_2")
    expected = loss_and_gradients(model, input_ids=tokens, labels=labels)
    model.activation_checkpointing_enable()
    torch.testing.assert_close(loss_and_gradients(model, input_ids=tokens, labels=labels), expected)


@pytest.mark.parametrize("blocks", BLOCKS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reaches_the_package_whether_of_the_weights_or_by_autocast(monkeypatch, blocks, dtype):
    flash = install(monkeypatch, takes_single_precision=False)
    tokens, labels = padded(HISTORIES), torch.where(padded(HISTORIES) == 1, 7, -100)
    model = tiny_model(**blocks)
    expected = model(tokens, logits_to_keep=tokens == 1).logits
    model.set_attn_implementation("flash_attention_2")
    with pytest.raises(RuntimeError, match="fp16 and bf16"):
        model(tokens)
    with torch.autocast("cpu", dtype):
        found = model(tokens, logits_to_keep=tokens == 1).logits
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.15)
        gradients = loss_and_gradients(model.train(), input_ids=tokens, labels=labels)
    assert len(gradients) > 9 and all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    found = model.eval().to(dtype)(tokens, logits_to_keep=tokens == 1).logits
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.15)
    assert flash.calls


@pytest.mark.parametrize("blocks", BLOCKS, ids=NAMES)
def test_histories_laid_end_to_end_in_one_row_are_told_apart(flash, blocks):
    model = tiny_model(**blocks | {"max_position_embeddings": 20})
    packed = torch.tensor([token for history in HISTORIES for token in history])[None]
    places = [range(len(history)) for history in HISTORIES]
    if blocks.get("position_origin") == "newest":
        places = [reversed(place) for place in places]
    ends = torch.tensor([0, *np.cumsum([len(history) for history in HISTORIES])], dtype=torch.int32)
    lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 7, "max_length_k": 7}
    position_ids = torch.tensor([[place for of_row in places for place in of_row]])
    with torch.no_grad():
        expected = [model(torch.tensor([history])).logits[0] for history in HISTORIES]
        model.set_attn_implementation("flash_attention_2")
        found = model(packed, position_ids=position_ids, **lengths).logits[0]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def test_positions_of_one_row_are_not_taken_for_several_histories(flash):
    tokens, position_ids = torch.tensor([[9, 3, 7, 5]]), torch.tensor([[3, 2, 0, 0]])
    model = tiny_model()
    with torch.no_grad():
        assert_agreement(model, lambda: model(tokens, position_ids=position_ids).logits)


def test_a_saved_model_loads_with_flash_attention_and_recommends_the_same(flash, tmp_path):
    tokenizer = Bert4RecTokenizer.from_items([f"item {number}" for number in range(20)])
    tiny_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    histories = [["item 3", "item 5", "item 9"], ["item 7"], [f"item {number}" for number in range(15)]]
    scores = []
    for implementation in ("flash_attention_2", *OTHERS):
        model = Bert4RecForMaskedLM.from_pretrained(tmp_path, attn_implementation=implementation)
        assert model.config._attn_implementation == implementation
        rows = [np.array(history) for history in ([5, 7, 11], [9], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])]
        scores.append(ModelScorer(model)(None, rows)(3, 23))
        recommend = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer, top_k=5)
        answers = [result["recommendations"] for result in recommend(histories, batch_size=3)]
        scores[-1] = scores[-1], [[entry["score"] for entry in answer] for answer in answers]
        scores[-1] += ([[entry["item_id"] for entry in answer] for answer in answers],)
    for scored, values, items in scores[1:]:
        torch.testing.assert_close(scores[0][0], scored, rtol=0, atol=1e-5)
        np.testing.assert_allclose(scores[0][1], values, atol=1e-5)
        assert scores[0][2] == items
    assert flash.calls


def test_a_mask_of_who_sees_whom_is_refused(flash):
    model = tiny_model()
    model.set_attn_implementation("flash_attention_2")
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="takes no 4-D attention mask; give a 2-D mask"):
        model(padded(FULL), mask)
    model.set_attn_implementation("sdpa")
    assert model(padded(FULL), mask).logits.shape == (2, 4, 23)


def test_where_it_is_not_installed_transformers_says_so_in_one_line(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    for load in (
        lambda: model.set_attn_implementation("flash_attention_2"),
        lambda: Bert4RecForMaskedLM.from_pretrained(tmp_path, attn_implementation="flash_attention_2"),
    ):
        with pytest.raises(
            ImportError, match=r"the package for FlashAttention2 doesn't seem to be installed"
        ) as error:
            load()
        assert "\n" not in str(error.value)
    assert model.config._attn_implementation == "sdpa"
