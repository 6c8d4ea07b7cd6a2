"""The sampled losses against their definitions written as loops, and against the whole softmax that they stand for."""

import math

import pytest
import torch
from torch import nn

from hf_bert4rec import Bert4RecConfig, Bert4RecForCausalLM, Bert4RecForMaskedLM
from hf_bert4rec.losses import catalogue_cross_entropy
from hf_bert4rec.sampled_losses import (
    binary_cross_entropy,
    draw_negatives,
    generalised_binary_cross_entropy,
    sampled_loss,
    sampled_scores,
    sampled_softmax,
    starting_bias,
)

NUM_ITEMS = 12
SAMPLED = ("sampled_softmax", "gbce", "bce")


def config_of(loss, **options):
    return Bert4RecConfig(vocab_size=NUM_ITEMS + 3, hidden_size=8, training_loss=loss, **options)


def random_case(num_labels=9, with_bias=True):
    """Hidden states, decoder and labels, of which every fifth is -100."""
    decoder = nn.Linear(8, NUM_ITEMS + 3, bias=with_bias)
    labels = torch.randint(3, NUM_ITEMS + 3, (num_labels,))
    labels[4::5] = -100
    return torch.randn(num_labels, 8, requires_grad=True), decoder, labels


def naive_loss(hidden_states, decoder, labels, negatives, config):
    """One label and one negative at a time, as the papers write it."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    bias = torch.zeros(NUM_ITEMS + 3) if decoder.bias is None else decoder.bias
    for row, label in enumerate(labels.tolist()):
        if label == -100:
            continue
        score_of = [(decoder.weight[token] @ hidden_states[row] + bias[token]).double() for token in range(len(bias))]
        drawn = negatives.tolist() if config.share_negatives else negatives[row].tolist()
        others = [token for token in drawn if token != label]
        rate = config.num_negatives / (NUM_ITEMS - 1)
        if config.training_loss == "sampled_softmax":
            proposal = 1 / NUM_ITEMS
            estimate = sum(score_of[token].exp() / (config.num_negatives * proposal) for token in others)
            loss = -(score_of[label].exp() / (score_of[label].exp() + estimate)).log()
        elif config.training_loss == "gbce":
            beta = rate * (config.gbce_t * (1 - 1 / rate) + 1 / rate)
            loss = -(score_of[label].sigmoid() ** beta).log()
            loss = (loss - sum((1 - score_of[token].sigmoid()).log() for token in others)) / (config.num_negatives + 1)
        else:
            loss = -score_of[label].sigmoid().log() - sum((1 - score_of[token].sigmoid()).log() for token in others)
        total, count = total + loss, count + 1
    return total, count


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("share_negatives", [True, False])
@pytest.mark.parametrize("num_negatives", [1, 7])
@pytest.mark.parametrize("loss", SAMPLED)
def test_loss_and_gradients_equal_a_naive_loop(loss, num_negatives, share_negatives, with_bias):
    config = config_of(loss, num_negatives=num_negatives, share_negatives=share_negatives, gbce_t=0.6)
    hidden_states, decoder, labels = random_case(with_bias=with_bias)
    inputs = [hidden_states, *decoder.parameters()]
    torch.manual_seed(1)
    found = sampled_loss(hidden_states, decoder, labels, config)
    torch.manual_seed(1)
    negatives = draw_negatives(len(labels), config, labels.device)
    assert share_negatives or (negatives == labels[:, None]).any() or num_negatives == 1, "an accidental hit is wanted"
    total, count = naive_loss(hidden_states, decoder, labels, negatives, config)
    torch.testing.assert_close(found, (total / count).float())
    expected = torch.autograd.grad(total / count, inputs)
    for gradient, wanted in zip(torch.autograd.grad(found, inputs), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_with_one_negative_of_its_own_bce_is_the_loss_of_sasrec():
    config = config_of("bce", num_negatives=1, share_negatives=False)
    scores = torch.tensor([0.3, -1.2]), torch.tensor([[0.5], [2.0]])
    decoder = nn.Linear(1, NUM_ITEMS + 3, bias=False)
    labels, negatives = torch.tensor([3, 4]), torch.tensor([[5], [6]])
    with torch.no_grad():
        decoder.weight[[3, 4, 5, 6], 0] = torch.cat([scores[0], scores[1][:, 0]])
    found = sampled_scores(torch.ones(2, 1), decoder, labels, negatives)
    torch.testing.assert_close(found, scores)
    expected = [math.log(1 + math.exp(-t)) + math.log(1 + math.exp(n)) for t, n in ((0.3, 0.5), (-1.2, 2.0))]
    torch.manual_seed(0)
    assert draw_negatives(2, config, labels.device).shape == (2, 1)
    torch.testing.assert_close(binary_cross_entropy(*found), torch.tensor(expected))


def test_gbce_with_every_other_item_as_negative_is_binary_cross_entropy_whatever_its_calibration():
    hidden_states, decoder, labels = random_case()
    losses = []
    for t in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        config = config_of("gbce", num_negatives=NUM_ITEMS - 1, gbce_t=t)
        losses.append(sampled_loss(hidden_states, decoder, labels, config).item())
    assert losses == pytest.approx([losses[0]] * 3)


def test_every_item_is_drawn_equally_often_and_no_special_token():
    drawn = draw_negatives(1, config_of("bce", num_negatives=60_000), torch.device("cpu"))
    counts = torch.bincount(drawn, minlength=NUM_ITEMS + 3)
    assert counts[:3].tolist() == [0, 0, 0]
    assert (counts[3:] / 60_000 - 1 / NUM_ITEMS).abs().max() < 0.005


def test_the_sampled_sum_under_the_logarithm_is_that_of_the_whole_softmax_on_average():
    hidden_states, decoder, labels = random_case(num_labels=3)
    with torch.no_grad():
        decoder.weight[:3] = decoder.weight[3]  # special tokens are never drawn: give them no say of their own
        decoder.bias[:3] = -torch.inf
    negatives = draw_negatives(3, config_of("sampled_softmax", num_negatives=200_000), labels.device)
    scores = sampled_scores(hidden_states, decoder, labels, negatives)
    expected = catalogue_cross_entropy(hidden_states, decoder.weight, decoder.bias, labels)
    assert sampled_softmax(*scores, NUM_ITEMS).mean().item() == pytest.approx(expected.item(), abs=0.01)


@pytest.mark.parametrize("loss", SAMPLED)
def test_the_sum_is_divided_by_the_number_of_labels_of_all_batches(loss):
    hidden_states, decoder, labels = random_case()
    config, losses = config_of(loss), []
    for num_items in (None, 1000, torch.tensor(1000)):
        torch.manual_seed(0)
        losses.append(sampled_loss(hidden_states, decoder, labels, config, num_items_in_batch=num_items).item())
    count = int((labels != -100).sum())
    assert losses == pytest.approx([losses[0], losses[0] * count / 1000, losses[0] * count / 1000])


@pytest.mark.parametrize("loss", SAMPLED)
@pytest.mark.parametrize("share_negatives", [True, False])
@pytest.mark.parametrize("num_labels", [0, 3])
def test_without_a_label_the_loss_is_zero_and_reaches_every_parameter(num_labels, share_negatives, loss):
    hidden_states, decoder, labels = random_case(num_labels)
    config = config_of(loss, share_negatives=share_negatives)
    labels = torch.full_like(labels, -100)
    for num_items in (None, torch.tensor(0 if num_labels == 0 else 12)):
        found = sampled_loss(hidden_states, decoder, labels, config, num_items_in_batch=num_items)
        assert found.item() == 0
        gradients = torch.autograd.grad(found, [hidden_states, *decoder.parameters()])
        assert all((gradient == 0).all() for gradient in gradients)


def test_a_label_that_is_the_only_item_has_no_rival_and_finite_gradients():
    config = Bert4RecConfig(vocab_size=4, training_loss="sampled_softmax")
    hidden_states, decoder = torch.randn(2, 8, requires_grad=True), nn.Linear(8, 4)
    for loss in SAMPLED:
        config.training_loss = loss
        found = sampled_loss(hidden_states, decoder, torch.tensor([3, 3]), config)
        (gradient,) = torch.autograd.grad(found, hidden_states)
        assert gradient.isfinite().all()
    config.training_loss = "sampled_softmax"
    assert sampled_loss(hidden_states, decoder, torch.tensor([3, 3]), config).item() == 0


@pytest.mark.parametrize("loss", SAMPLED)
def test_half_precision_and_autocast_stay_close_to_single(loss):
    hidden_states, decoder, labels = random_case(300)
    config, losses = config_of(loss), []
    for dtype, autocast in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses.append(sampled_loss(hidden_states.to(dtype), decoder.to(dtype), labels, config))
        assert losses[-1].dtype == torch.float32
    assert losses[0] == losses[1]
    assert losses[2].item() == pytest.approx(losses[0].item(), rel=1e-2)


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("loss", SAMPLED)
def test_sparse_gradients_of_a_model_are_the_dense_ones(loss, tie):
    config = config_of(loss, num_attention_heads=2, num_negatives=3, tie_word_embeddings=tie, hidden_dropout_prob=0.0)
    model = Bert4RecForMaskedLM(config).train()
    input_ids, labels = torch.tensor([[4, 1, 6], [5, 7, 1]]), torch.tensor([[-100, 9, -100], [-100, -100, 8]])
    gradients = []
    for sparse in (False, True):
        model.get_input_embeddings().sparse, model.cls.sparse_gradients = sparse, (sparse, sparse)
        model.zero_grad()
        torch.manual_seed(0)
        model(input_ids=input_ids, labels=labels).loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        item_weights = {model.get_input_embeddings().weight, *model.get_output_embeddings().parameters()}
        assert all(weight.grad.is_sparse == sparse for weight in item_weights)
        gradients.append({name: g.to_dense() if g.is_sparse else g for name, g in found.items()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_evaluating_draws_the_same_negatives_each_time_and_leaves_training_draws_alone():
    model = Bert4RecForMaskedLM(config_of("gbce", num_attention_heads=2)).eval()
    inputs = {"input_ids": torch.tensor([[4, 1, 6]]), "labels": torch.tensor([[-100, 9, -100]])}
    before = torch.get_rng_state()
    assert model(**inputs).loss == model(**inputs).loss
    assert torch.equal(torch.get_rng_state(), before)
    model.train()
    assert model(**inputs).loss != model(**inputs).loss


@pytest.mark.parametrize(
    "change",
    [{"loss": "bce"}, {"num_negatives": 3}, {"share_negatives": False}, {"gbce_t": 0.1}],
    ids=str,
)
def test_every_option_of_the_loss_changes_it(change):
    hidden_states, decoder, labels = random_case()
    losses = []
    for options in ({}, change):
        torch.manual_seed(0)
        config = config_of(**({"loss": "gbce", "num_negatives": 5} | options))
        losses.append(sampled_loss(hidden_states, decoder, labels, config).item())
    assert losses[0] != pytest.approx(losses[1])


@pytest.mark.parametrize("options", [{"loss": "bce"}, {"loss": "gbce"}, {"loss": "gbce", "gbce_t": 0.0}])
@pytest.mark.parametrize("num_negatives", [1, 6])
def test_while_all_items_score_alike_the_loss_is_lowest_where_the_bias_starts(options, num_negatives):
    config = config_of(**options, num_negatives=num_negatives)
    scores = (starting_bias(config) + torch.tensor([-0.01, 0.0, 0.01])).double()
    negatives = scores[:, None].expand(-1, num_negatives)
    if config.training_loss == "bce":
        losses = binary_cross_entropy(scores, negatives)
    else:
        losses = generalised_binary_cross_entropy(scores, negatives, NUM_ITEMS, config.gbce_t)
    assert losses.argmin() == 1


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("model_class", [Bert4RecForMaskedLM, Bert4RecForCausalLM])
def test_the_items_of_a_new_model_start_at_that_bias(model_class, tie):
    for loss in ("softmax", *SAMPLED):
        config = config_of(loss, num_attention_heads=2, num_negatives=6, tie_word_embeddings=tie)
        bias = model_class(config).get_output_embeddings().bias
        assert (bias == starting_bias(config)).all()
        assert (starting_bias(config) != 0) == (loss in ("gbce", "bce"))


def test_a_trained_bias_is_loaded_as_it_was_saved(tmp_path):
    model = Bert4RecForMaskedLM(config_of("gbce", num_attention_heads=2))
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(tmp_path)
    loaded = Bert4RecForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.cls.predictions.bias, model.cls.predictions.bias)
