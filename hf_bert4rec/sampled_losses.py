"""
Training losses that score the hidden item against some drawn items instead of the whole catalogue.

*Source:* sampled softmax with the log-Q correction: Bengio & Senécal, "Adaptive Importance Sampling to Accelerate Training
of a Neural Probabilistic Language Model" (2008). Binary cross-entropy: Kang & McAuley, "Self-Attentive Sequential
Recommendation" (ICDM 2018), equation 6. gBCE: Petrov & Macdonald, "gSASRec" (RecSys 2023), equations 8-12.

*Differences:* negatives are drawn uniformly with replacement from all items, the user's own included, by torch's generator,
which `Trainer` saves and restores with a checkpoint; by default one draw serves all labels of a batch. A negative that is
the label itself is taken out again. The label enters the sampled softmax once and uncorrected, as it is there by
certainty and not by draw: the sum under the logarithm is then that of the whole softmax on average.
"""

import math

import torch
from torch import nn

from .configuration_bert4rec import FIRST_ITEM_TOKEN, Bert4RecConfig
from .sharded_items import is_sharded, sharded_rows
from .soft_targets import SoftTargets


def draw_negatives(
    num_labels: int, config: Bert4RecConfig, device: torch.device, generator: torch.Generator | None = None
) -> torch.Tensor:
    r"""
    Item tokens, uniformly and with replacement.

    Args:
        num_labels (`int`): Hidden items of the batch.
        config ([`Bert4RecConfig`]): `vocab_size`, `num_negatives` and `share_negatives` are read.
        device (`torch.device`): Where to draw.
        generator (`torch.Generator`, *optional*): By default torch's own.

    Returns:
        `torch.LongTensor` of shape `(num_negatives,)`, or `(num_labels, num_negatives)` where labels do not share them.

    Example:
        >>> draw_negatives(7, Bert4RecConfig(vocab_size=103, num_negatives=5), torch.device("cpu")).shape
        torch.Size([5])
    """
    shape = (config.num_negatives,) if config.share_negatives else (num_labels, config.num_negatives)
    return torch.randint(FIRST_ITEM_TOKEN, config.vocab_size, shape, device=device, generator=generator)


def sampled_scores(
    hidden_states: torch.Tensor,
    decoder: nn.Linear,
    labels: torch.Tensor,
    negatives: torch.Tensor,
    sparse_gradients: tuple[bool, bool] = (False, False),
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Scores of the labels and of the negatives, in float32; no other row of the item embedding is read.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_labels, hidden_size)`): One vector per hidden item.
        decoder (`nn.Linear`): The item embedding as its weight, and the items' bias.
        labels (`torch.LongTensor` of shape `(num_labels,)`): Token of each hidden item.
        negatives (`torch.LongTensor` of shape `(num_negatives,)` or `(num_labels, num_negatives)`): Drawn tokens.
        sparse_gradients (`tuple[bool, bool]`, *optional*):
            Whether the gradients of weight and bias hold the rows that were read instead of all.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: scores of the labels, `(num_labels,)`, and of the negatives, `(num_labels,
        num_negatives)`; the latter `-inf` where a negative is the label.
    """
    tokens = torch.cat([labels, negatives.flatten()])
    if is_sharded(decoder.weight):
        rows = sharded_rows(decoder.weight, tokens).float()
    else:
        rows = nn.functional.embedding(tokens, decoder.weight, sparse=sparse_gradients[0]).float()
    own_rows, other_rows = rows[: len(labels)], rows[len(labels) :]
    with torch.autocast(hidden_states.device.type, enabled=False):
        hidden_states = hidden_states.float()
        target_scores = (hidden_states * own_rows).sum(1)  # (num_labels, hidden) -> (num_labels,)
        if negatives.ndim == 1:
            negative_scores = hidden_states @ other_rows.T  # (num_labels, num_negatives)
        else:
            other_rows = other_rows.unflatten(0, negatives.shape)  # (num_labels, num_negatives, hidden)
            negative_scores = (other_rows @ hidden_states[:, :, None])[:, :, 0]  # (num_labels, num_negatives)
    if decoder.bias is not None:
        if is_sharded(decoder.bias):
            bias = sharded_rows(decoder.bias, tokens).float()
        else:
            bias = torch.gather(decoder.bias, 0, tokens, sparse_grad=sparse_gradients[1]).float()
        target_scores = target_scores + bias[: len(labels)]
        negative_scores = negative_scores + bias[len(labels) :].view(negatives.shape)
    return target_scores, negative_scores.masked_fill(negatives == labels[:, None], -torch.inf)


def starting_bias(config: Bert4RecConfig) -> float:
    r"""
    The score at which `bce` and `gbce` are lowest as long as all items score alike; an untrained model's bias.

    From 0 all items but a few have to come down first. With negatives by the hundred this takes many passes over a large
    catalogue, as each pass draws an item a few times, and wears the item embeddings out: on Beauty (54,542 items) gBCE stayed
    below popularity for ten epochs.

    *Source:* Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), section 4.1.

    Args:
        config ([`Bert4RecConfig`]): Names the loss and its numbers.

    Returns:
        `float`: 0 for the softmaxes, which do not see what is added to all scores.

    Example:
        >>> round(starting_bias(Bert4RecConfig(vocab_size=1003, training_loss="bce", num_negatives=10)), 2)
        -2.3
    """
    if config.training_loss not in ("bce", "gbce"):
        return 0.0
    num_items = config.vocab_size - FIRST_ITEM_TOKEN
    weight = _label_weight(config.num_negatives, num_items, config.gbce_t) if config.training_loss == "gbce" else 1.0
    return math.log(weight / config.num_negatives)


def sampled_softmax(target_scores: torch.Tensor, negative_scores: torch.Tensor, num_items: int) -> torch.Tensor:
    r"""
    Cross-entropy of the label among itself and the negatives, each of which stands for `num_items / num_negatives` items.

    Args:
        target_scores (`torch.Tensor` of shape `(num_labels,)`): Scores of the hidden items.
        negative_scores (`torch.Tensor` of shape `(num_labels, num_negatives)`): Those of items drawn uniformly.
        num_items (`int`): Items that were drawn from.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`: nats.

    Example:
        >>> loss = sampled_softmax(torch.zeros(1), torch.zeros(1, 10), num_items=99)
        >>> round(loss.exp().item(), 3)  # 1 + 10 * 99 / 10
        100.0
    """
    return _corrected(target_scores, negative_scores, num_items).logsumexp(1) - target_scores


def _corrected(target_scores: torch.Tensor, negative_scores: torch.Tensor, num_items: int) -> torch.Tensor:
    """Scores of label and negatives, `(num_labels, 1 + num_negatives)`, whose softmax stands for that of the whole catalogue."""
    # A draw's expected count is num_negatives / num_items; its logarithm is the log-Q that is taken off.
    corrected = negative_scores + math.log(num_items / negative_scores.shape[1])
    return torch.cat([target_scores[:, None], corrected], 1)


def binary_cross_entropy(target_scores: torch.Tensor, negative_scores: torch.Tensor) -> torch.Tensor:
    r"""
    Minus log sigmoid of the label, minus the sum of log (1 - sigmoid) of the negatives; with one negative, SASRec's loss.

    Args:
        target_scores (`torch.Tensor` of shape `(num_labels,)`): Scores of the hidden items.
        negative_scores (`torch.Tensor` of shape `(num_labels, num_negatives)`): Those of the negatives; `-inf` adds 0.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`: nats.

    Example:
        >>> round(binary_cross_entropy(torch.zeros(1), torch.zeros(1, 3)).exp().item(), 3)
        16.0
    """
    return nn.functional.softplus(-target_scores) + nn.functional.softplus(negative_scores).sum(1)


def generalised_binary_cross_entropy(
    target_scores: torch.Tensor, negative_scores: torch.Tensor, num_items: int, t: float
) -> torch.Tensor:
    r"""
    gBCE: sigmoid of the label to the power beta = a (t (1 - 1/a) + 1/a), a = num_negatives / (num_items - 1), averaged with
    the negatives' terms. It takes back what sampling few negatives adds to all scores: not at all with t = 0, wholly
    with t = 1.

    Args:
        target_scores (`torch.Tensor` of shape `(num_labels,)`): Scores of the hidden items.
        negative_scores (`torch.Tensor` of shape `(num_labels, num_negatives)`): Those of the negatives; `-inf` adds 0.
        num_items (`int`): Items that were drawn from.
        t (`float`): Calibration, from 0 to 1.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`: nats.

    Example:
        >>> loss = generalised_binary_cross_entropy(torch.zeros(1), torch.zeros(1, 3), num_items=101, t=0.0)
        >>> round(loss.exp().item(), 3)
        2.0
    """
    num_negatives = negative_scores.shape[1]
    beta = _label_weight(num_negatives, num_items, t)
    positive, negative = nn.functional.softplus(-target_scores), nn.functional.softplus(negative_scores)
    return (beta * positive + negative.sum(1)) / (num_negatives + 1)


def _label_over_expected(
    scores: tuple[torch.Tensor, torch.Tensor],
    labels: torch.Tensor,
    negatives: torch.Tensor,
    num_items: int,
    teacher: SoftTargets,
) -> torch.Tensor:
    """[`soft_targets.label_over_expected`] of each label among itself and the negatives, `(num_labels,)`."""
    with torch.no_grad():
        of_teacher = sampled_scores(teacher.vectors, teacher.decoder, labels, negatives)
        shares = _corrected(*of_teacher, num_items).softmax(1)
    # A negative that is the label has no share and a score of -inf.
    own = _corrected(*scores, num_items).masked_fill(shares == 0, 0)
    return scores[0] - (own * shares).sum(1)


def _label_weight(num_negatives: int, num_items: int, t: float) -> float:
    """gBCE's beta."""
    sampling_rate = min(1.0, num_negatives / max(num_items - 1, 1))
    return t * (sampling_rate - 1) + 1


def sampled_loss(
    hidden_states: torch.Tensor,
    decoder: nn.Linear,
    labels: torch.Tensor,
    config: Bert4RecConfig,
    *,
    num_items_in_batch: torch.Tensor | int | None = None,
    sparse_gradients: tuple[bool, bool] = (False, False),
    generator: torch.Generator | None = None,
    teacher: SoftTargets | None = None,
) -> torch.Tensor:
    r"""
    The sampled loss that `config.training_loss` names, over freshly drawn negatives.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_labels, hidden_size)`): One vector per hidden item.
        decoder (`nn.Linear`): The item embedding as its weight, and the items' bias.
        labels (`torch.LongTensor` of shape `(num_labels,)`): Token of each hidden item; -100 is ignored.
        config ([`Bert4RecConfig`]): Names the loss and its numbers.
        num_items_in_batch (`int`, *optional*):
            Number of labels the sum is divided by, as in [`catalogue_cross_entropy`]. `None`: those given here.
        sparse_gradients (`tuple[bool, bool]`, *optional*): See [`sampled_scores`].
        generator (`torch.Generator`, *optional*): Draws the negatives; by default torch's own.
        teacher ([`SoftTargets`], *optional*): For the same labels; of `"sampled_softmax"` alone.

    Returns:
        `torch.Tensor` of shape `()`: the mean in nats; 0 where nothing is labelled.
    """
    is_labelled = labels.ne(-100)
    if num_items_in_batch is None:
        num_items_in_batch = is_labelled.sum().clamp(min=1)
    labels = labels.clamp(min=0)
    negatives = draw_negatives(len(labels), config, labels.device, generator)
    scores = sampled_scores(hidden_states, decoder, labels, negatives, sparse_gradients)
    num_items = config.vocab_size - FIRST_ITEM_TOKEN
    if config.training_loss == "sampled_softmax":
        losses = sampled_softmax(*scores, num_items)
        if teacher is not None:
            losses = losses + teacher.weight * _label_over_expected(scores, labels, negatives, num_items, teacher)
    elif config.training_loss == "gbce":
        losses = generalised_binary_cross_entropy(*scores, num_items, config.gbce_t)
    else:
        losses = binary_cross_entropy(*scores)
    if isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(losses.device)
    summed = torch.where(is_labelled, losses, 0.0).sum()
    return summed / num_items_in_batch if len(labels) else summed
