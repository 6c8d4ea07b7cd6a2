"""The causal model and the two readings: no look-ahead, labels one step later, and one way to rank."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from hf_bert4rec import Bert4RecConfig, Bert4RecForCausalLM, Bert4RecForMaskedLM

SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "max_position_embeddings": 10,
    "hidden_dropout_prob": 0.0,
}
HISTORIES = [[4, 1], [9, 3, 7, 1], [5, 5, 8, 20, 11, 1], [1]]
CHANGES = [{}, {"norm_position": "pre", "position_origin": "newest"}, {"head_transform": False, "hidden_act": "relu"}]


def tiny_model(model_class=Bert4RecForCausalLM, **changes):
    model = model_class(Bert4RecConfig(**SIZES | changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval().double()


def padded(histories, side="right"):
    tokens = torch.zeros(len(histories), max(map(len, histories)) + 1, dtype=torch.long)
    for row, history in enumerate(histories):
        start = 0 if side == "right" else tokens.shape[1] - len(history)
        tokens[row, start : start + len(history)] = torch.tensor(history)
    return tokens


@pytest.mark.parametrize("changes", CHANGES)
def test_no_event_sees_a_later_one(changes):
    model = tiny_model(**changes)
    tokens = torch.tensor([[5, 8, 20, 11, 6]])
    vectors = model.get_input_embeddings()(tokens).detach().requires_grad_()
    for place in range(5):
        logits = model(inputs_embeds=vectors).logits[:, place]
        (influence,) = torch.autograd.grad(logits.square().sum(), vectors)
        assert (influence[0].abs().amax(1) > 0).tolist() == [other <= place for other in range(5)]


@pytest.mark.parametrize("changes", CHANGES)
def test_the_loss_is_that_of_each_next_item_in_training_and_evaluation(changes):
    model = tiny_model(**changes)
    tokens = padded([[4, 6], [9, 3, 7], [5, 5, 8, 20, 11]])
    labels = torch.where(tokens != 0, tokens, -100)
    logits = model(tokens).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    assert model(tokens, labels=labels).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    assert model(tokens, shift_labels=shifted).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    trained = model.train()(tokens, labels=labels)
    assert trained.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert trained.logits is None


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("changes", CHANGES)
def test_a_mask_is_scored_by_the_event_before_it_whichever_side_is_padded(changes, side):
    model = tiny_model(**changes)
    tokens = padded(HISTORIES, side)
    batch = model(tokens, logits_to_keep=tokens == 1).logits
    vectors = model.user_vectors(tokens)
    head = model.get_output_embeddings()
    torch.testing.assert_close(vectors @ head.weight.T + head.bias, batch)
    for row, history in enumerate(HISTORIES):
        alone = model(torch.tensor([history])).logits[0]
        torch.testing.assert_close(batch[row], alone[-2] if len(history) > 1 else alone[-1])
        torch.testing.assert_close(alone[-1], batch[row])  # at the [MASK] itself


def test_the_score_of_a_mask_does_not_depend_on_what_a_mask_is():
    model = tiny_model()
    tokens = torch.tensor([[9, 3, 7, 1]])
    before = model.user_vectors(tokens)
    with torch.no_grad():
        model.get_input_embeddings().weight[1] += 5
    torch.testing.assert_close(model.user_vectors(tokens), before)


@pytest.mark.parametrize("reading", ["masked", "causal", "both"])
def test_a_reading_fills_a_mask_from_both_sides_from_before_or_by_the_mean(reading):
    model = tiny_model(Bert4RecForMaskedLM, norm_position="pre", reading=reading)
    tokens = padded(HISTORIES)
    vectors = {}
    for name in ("masked", "causal"):
        model.config.reading = name
        vectors[name] = model.user_vectors(tokens)
    vectors["both"] = (vectors["masked"] + vectors["causal"]) / 2
    model.config.reading = reading
    torch.testing.assert_close(model.user_vectors(tokens), vectors[reading])
    logits = model(tokens, logits_to_keep=tokens == 1).logits
    head = model.get_output_embeddings()
    torch.testing.assert_close(logits, vectors[reading] @ head.weight.T + head.bias)
    torch.testing.assert_close(model(tokens).logits[tokens == 1], logits)
    assert (vectors["masked"] - vectors["causal"]).abs().min(1).values.max() > 1e-3


def test_what_is_causal_stays_so_for_rows_that_are_not_marked():
    tokens = padded([[4, 6, 8], [9, 3, 7], [5, 5, 8, 20, 11], [7, 9, 9, 12]])
    labels = torch.where(tokens == 9, tokens, -100)
    losses = []
    for is_decoder in (True, False):
        model = tiny_model(Bert4RecForMaskedLM, is_decoder=is_decoder).train()
        losses.append(model(tokens, labels=labels).loss)
        unmarked = model(tokens, labels=labels, causal_rows=torch.zeros(len(tokens), dtype=torch.bool)).loss
        torch.testing.assert_close(unmarked, losses[-1])
    assert (losses[0] - losses[1]).abs() > 1e-4


def test_both_objectives_in_one_batch_add_up():
    model = tiny_model(Bert4RecForMaskedLM, norm_position="pre").train()
    causal_model = Bert4RecForCausalLM(model.config).double().train()
    causal_model.load_state_dict(model.state_dict())
    model.config.reading = "masked"
    tokens = padded([[4, 6, 8], [9, 3, 7], [5, 5, 8, 20, 11], [7, 9, 9, 12]])
    labels = torch.where((tokens == 9) | (tokens == 8), tokens, -100)
    causal_rows = torch.tensor([True, False, True, False])
    labels[causal_rows] = torch.where(tokens != 0, tokens, -100)[causal_rows]
    found = model(tokens, labels=labels, causal_rows=causal_rows, num_items_in_batch=1).loss
    cloze = model(tokens[~causal_rows], labels=labels[~causal_rows], num_items_in_batch=1).loss
    causal = causal_model(tokens[causal_rows], labels=labels[causal_rows], num_items_in_batch=1).loss
    assert found.item() == pytest.approx((cloze + causal).item(), rel=1e-6)
    assert cloze.item() > 0 and causal.item() > 0


@pytest.mark.parametrize("blocks", [{}, {"norm_position": "pre"}, {"norm_position": "pre", "backbone": "modernbert"}])
@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_is_causal_counts_and_not_the_configuration_wherever_it_is_given(blocks, attn_implementation, is_causal):
    model = tiny_model(Bert4RecForMaskedLM, is_decoder=is_causal, **blocks)
    model.set_attn_implementation(attn_implementation)
    tokens = torch.tensor([[5, 8, 20, 11], [6, 9, 3, 0]])
    for rows in (tokens, tokens[:1]):  # with padding, which needs a mask, and without
        expected = model.bert4rec(rows).last_hidden_state
        other = tiny_model(Bert4RecForMaskedLM, is_decoder=not is_causal, **blocks)
        other.load_state_dict(model.state_dict())
        other.set_attn_implementation(attn_implementation)
        found = other.bert4rec(rows, is_causal=is_causal).last_hidden_state
        torch.testing.assert_close(found[rows != 0], expected[rows != 0])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_class", [Bert4RecForMaskedLM, Bert4RecForCausalLM])
def test_the_label_of_a_first_event_is_ignored_on_whichever_side_the_padding_stands(model_class, side):
    model = tiny_model(model_class).train()
    tokens = padded([[4, 6, 8], [9, 3]], side)
    labels = tokens.masked_fill(tokens == 0, -100)
    without_first = labels.masked_fill((tokens == 4) | (tokens == 9), -100)
    losses = {
        model(tokens, labels=of_events, causal_rows=torch.tensor([True, True])).loss.item()
        for of_events in (labels, without_first)
    }
    if model_class is Bert4RecForCausalLM:
        losses |= {model.eval()(tokens, labels=labels).loss.item()}
    tokens = padded([[4, 6, 8], [9, 3]])
    labels = tokens.masked_fill(tokens == 0, -100)
    expected = model.train()(tokens, labels=labels, causal_rows=torch.tensor([True, True])).loss.item()
    assert list(losses) == pytest.approx([expected] * len(losses), rel=1e-9)


@pytest.mark.parametrize("model_class", [Bert4RecForMaskedLM, Bert4RecForCausalLM])
@pytest.mark.parametrize("changes", CHANGES)
def test_a_history_longer_than_the_window_is_read_and_learned_as_its_newest_events_alone(model_class, changes):
    model = tiny_model(model_class, reading="causal", **changes)
    tokens = torch.arange(4, 18)[None]
    newest = tokens[:, -10:]
    tokens[0, 4] = newest[0, 0] = 1  # the oldest event that is read
    torch.testing.assert_close(model(tokens).logits[:, -10:], model(newest).logits)
    causal_rows = torch.tensor([True])
    losses = [model.train()(t, labels=t, causal_rows=causal_rows).loss.item() for t in (tokens, newest)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_a_saved_model_loads_as_either_class_and_ranks_the_same(tmp_path):
    model = tiny_model().float()
    model.save_pretrained(tmp_path)
    tokens = padded(HISTORIES)
    expected = model.user_vectors(tokens)
    causal = AutoModelForCausalLM.from_pretrained(tmp_path)
    masked = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert (type(causal), type(masked)) == (Bert4RecForCausalLM, Bert4RecForMaskedLM)
    for loaded in (causal, masked):
        torch.testing.assert_close(loaded.eval().user_vectors(tokens), expected)


@pytest.mark.parametrize(
    "classes", [(Bert4RecForMaskedLM, Bert4RecForCausalLM), (Bert4RecForCausalLM, Bert4RecForMaskedLM)]
)
def test_models_of_one_configuration_read_each_in_its_own_way(classes):
    config = Bert4RecConfig(**SIZES)
    models = {model_class: model_class(config).eval() for model_class in classes}
    assert models[Bert4RecForMaskedLM].config.reading == config.reading == "masked"
    assert models[Bert4RecForCausalLM].config.reading == "causal"
