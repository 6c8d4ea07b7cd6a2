"""The loss with a teacher: that of the definition, over the catalogue and over drawn items, with its gradients."""

import copy
import math
from unittest import mock

import pytest
import torch
from torch import nn

from hf_bert4rec import Bert4RecConfig, soft_targets
from hf_bert4rec.item_head import Bert4RecItemHead
from hf_bert4rec.sampled_losses import draw_negatives
from hf_bert4rec.soft_targets import SoftTargets, label_over_expected

VOCAB, HIDDEN, LABELS = 103, 16, 40
WEIGHT = 0.3


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = Bert4RecItemHead(Bert4RecConfig(vocab_size=VOCAB, hidden_size=HIDDEN)).double()
    head.predictions.decoder.bias = head.predictions.bias
    with torch.no_grad():
        head.predictions.bias.normal_()
    return head


@pytest.fixture
def teacher():
    """Wider than the student, as an ensemble is."""
    torch.manual_seed(1)
    decoder = nn.Linear(24, VOCAB).double().requires_grad_(False)
    return SoftTargets(torch.randn(LABELS, 24, dtype=torch.float64), decoder, WEIGHT)


@pytest.fixture
def vectors():
    torch.manual_seed(2)
    return torch.randn(LABELS, HIDDEN, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def labels():
    torch.manual_seed(3)
    return torch.randint(3, VOCAB, (LABELS,))


def leaves(head, vectors):
    return vectors, head.predictions.decoder.weight, head.predictions.bias


def check_equal(head, vectors, found, expected):
    gradients = [torch.autograd.grad(loss, leaves(head, vectors)) for loss in (found, expected)]
    torch.testing.assert_close(found, expected)
    for own, naive in zip(*gradients, strict=True):
        torch.testing.assert_close(own, naive)


def by_definition(scores, teacher_scores, labels):
    """(1 - w) cross-entropy with the label + w cross-entropy with the teacher's probabilities, of each label."""
    log_shares = scores.log_softmax(1)
    with_label = -log_shares.gather(1, labels[:, None])[:, 0]
    with_teacher = -(teacher_scores.softmax(1) * log_shares).sum(1)
    return (1 - WEIGHT) * with_label + WEIGHT * with_teacher


@pytest.mark.parametrize("sizes", [(1 << 20, 64), (9 * VOCAB, 1), (1, 7)])
def test_the_loss_over_the_catalogue_is_that_of_the_definition(head, vectors, labels, teacher, sizes):
    expected = by_definition(head.predictions.decoder(vectors), teacher.decoder(teacher.vectors), labels).mean()
    with mock.patch.multiple(soft_targets, SCORES_AT_ONCE=sizes[0], LABELS_AT_ONCE=sizes[1]):
        check_equal(head, vectors, head.loss(vectors, labels, teacher=teacher), expected)


def test_labels_to_ignore_are_ignored_and_the_sum_is_divided_by_all_labels_of_a_step(head, vectors, labels, teacher):
    labels[::3] = -100
    kept = labels.ne(-100)
    for given, count in ((71, 71), (torch.tensor(71), 71), (None, kept.sum())):
        scores = head.predictions.decoder(vectors[kept]), teacher.decoder(teacher.vectors[kept])
        expected = by_definition(*scores, labels[kept]).sum() / count
        check_equal(head, vectors, head.loss(vectors, labels, given, teacher=teacher), expected)


def test_nothing_labelled_gives_zero(head, vectors, labels, teacher):
    for count in (None, 0, torch.tensor(0)):
        loss = head.loss(vectors[:0], labels[:0], count, teacher=teacher._replace(vectors=teacher.vectors[:0]))
        assert loss == 0
        loss.backward()


@pytest.mark.parametrize("share_negatives", [True, False])
def test_the_loss_over_drawn_items_is_that_of_the_definition_among_them(
    head, vectors, labels, teacher, share_negatives
):
    config = head.config
    config.training_loss, config.num_negatives, config.share_negatives = "sampled_softmax", 60, share_negatives
    torch.manual_seed(4)
    negatives = draw_negatives(LABELS, config, vectors.device).expand(LABELS, -1)
    assert negatives.eq(labels[:, None]).any()  # a negative that is a label counts for nothing
    tokens = torch.cat([labels[:, None], negatives], 1)  # (labels, 1 + negatives)
    off = torch.full(tokens.shape, math.log((VOCAB - 3) / 60), dtype=torch.float64)
    off[:, 0] = 0
    off[:, 1:][negatives == labels[:, None]] = -1e9
    scores = [
        decoder(states).gather(1, tokens) + off
        for decoder, states in ((head.predictions.decoder, vectors), (teacher.decoder, teacher.vectors))
    ]
    expected = by_definition(*scores, torch.zeros_like(labels)).mean()
    torch.manual_seed(4)
    head.train()
    found = head.loss(vectors, labels, teacher=teacher)
    # The sampled losses compute in float32.
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    for own, naive in zip(
        torch.autograd.grad(found, leaves(head, vectors)),
        torch.autograd.grad(expected, leaves(head, vectors)),
        strict=True,
    ):
        torch.testing.assert_close(own, naive, atol=1e-7, rtol=1e-4)


def test_a_teacher_that_agrees_teaches_nothing(head, vectors, labels):
    """Where the teacher's probabilities are the student's own, its part of the gradient is 0."""
    own = SoftTargets(vectors.detach(), head.predictions.decoder, 1.0)
    loss = head.loss(vectors, labels, teacher=own)
    for gradient in torch.autograd.grad(loss, leaves(head, vectors)):
        assert gradient.abs().max() < 1e-12


def test_in_half_precision_the_loss_is_that_of_the_same_numbers_in_whole(head, vectors, labels, teacher):
    """Scores of a teacher that is saved in bfloat16 would lose most of their digits in its own precision."""
    half = teacher._replace(decoder=copy.deepcopy(teacher.decoder).bfloat16(), vectors=teacher.vectors.bfloat16())
    whole = half._replace(decoder=copy.deepcopy(half.decoder).double(), vectors=half.vectors.double())
    found, expected = (head.loss(vectors, labels, teacher=each) for each in (half, whole))
    torch.testing.assert_close(found, expected)
    given = vectors, *head.predictions.decoder.parameters(), labels, teacher
    with torch.autocast("cpu", torch.bfloat16):
        cast = label_over_expected(*given)
    torch.testing.assert_close(cast, label_over_expected(*given))
