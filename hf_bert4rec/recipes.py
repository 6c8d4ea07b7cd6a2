"""
Named sets of defaults for a whole run: what `train(recipe=...)` starts from; every option given beside it wins.

*Source:* `paper`: Sun et al. (CIKM 2019), section 4.3, and the authors' code; `klenitskiy`: Klenitskiy & Vasilev, "Turning
Dross Into Gold Loss: is BERT4Rec really better than SASRec?" (RecSys 2023); `rectools`: the BERT4Rec of RecTools' benchmarks;
`sasrec`: Kang & McAuley (ICDM 2018) with the softmax over the catalogue of Klenitskiy & Vasilev. `default`, `small` and
`sparse` are ours.

*Differences:* the item bias of the head, which `klenitskiy` and `rectools` do not have, stays; the authors' 400,000 steps of
`paper` are a number of epochs, 200, which a user may raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .interactions import InteractionData

# The name that stands for `default`, `small` or `sparse`, whichever suits the log.
AUTO = "auto"
# Fewer training events than these for each item of the catalogue make a log sparse. Beauty has 5 and, 5-core, 13,
# MovieLens-100K 72, MovieLens-1M 289.
SPARSE_EVENTS_PER_ITEM = 30
# Fewer users than these make a log small. MovieLens-100K has 943, MovieLens-1M 6,040.
SMALL_NUM_USERS = 2_000

# The figures below were found with batches of like length; rows in random order learn faster, see `row_parts`.
DEFAULT: dict[str, Any] = {
    # Half of the samples are read causally: an epoch takes 1.6 times as long, and on MovieLens-1M validation NDCG@10 is .104
    # after ten epochs where the cloze alone has .071.
    "causal_probability": 0.5,
    "norm_position": "pre",
    "position_origin": "newest",
    "embedding_layer_norm": False,
    # Blocks that start small beside the item embedding, and no dense layer behind them. Validation NDCG@10 on MovieLens-1M,
    # hidden size 64, after five and ten epochs of a ten-epoch run at .002: .078 and .098, with the dense layer .054 after five;
    # at .004 .095 and .114. SASRec's blocks after five: .095, started by "xavier" .041. MovieLens-100K, forty epochs, is
    # learned better by "xavier" without the scale: .108, so .088.
    "scale_embedding": True,
    "head_transform": False,
    "hidden_dropout_prob": 0.1,
    "num_train_epochs": 100,
    "per_device_train_batch_size": 128,
    "learning_rate": 4e-3,
    "adam_beta2": 0.98,
    "warmup_steps": 100,
    "max_grad_norm": 5.0,
    "lr_scheduler_type": "linear",
}
# Validation NDCG@10 on MovieLens-100K, best of forty epochs, the mean of both readings: .127, .122, .127 (seeds 42 to 44; .133
# at the time of the search); with BERT's blocks, thirty to sixty epochs, .103 to .110 and, the causal half alone, .110 to .115
# (two to four layers, width 64 or 128, dropout .3 to .5). DeBERTa's attention in pre-norm blocks ranks as ModernBERT's in 2.5
# times the time: on one day, seed 42, .127 in 385 CPU seconds (.126 with position embeddings too), ModernBERT's .127 in 150,
# BERT's .108 in 106. ALBERT's sharing of one block takes a thirtieth off BERT's.
SMALL: dict[str, Any] = DEFAULT | {
    "backbone": "modernbert",
    "hidden_dropout_prob": 0.3,
    "num_train_epochs": 40,
    "per_device_train_batch_size": 64,
}
# On Beauty, 5-core, validation NDCG@10 of the causal half alone: .035 after twelve epochs, .046 with scaled embeddings, .057
# with learning rate .002 too; after ten epochs at .003, .057 and, with values that start as the identity, .060. Both
# objectives with the dense layer in the head reach .024 after ten epochs, without it .041. With rows in random order, read
# causally: half of the samples causal, 80 epochs, .071, four fifths, 60 epochs, .074, all, 30 epochs, .074; on Toys, 5-core,
# .072 and .078 (half, four fifths). With BERT's start of all layers, `adam_beta2` .999 and rate .001 Beauty, 5-core, comes close
# in fewer epochs (dropout .2, 16: .070; .4, 30: .072; .5 and .0015, 40: .072), and a log of five events an item is learned far
# better, see `examples/recipes/beauty.json`.
SPARSE: dict[str, Any] = DEFAULT | {
    "causal_probability": 0.8,
    "linear_initializer": "xavier",
    "value_initializer": "identity",
    "mlm_probability": 0.4,
    "hidden_dropout_prob": 0.5,
    "num_train_epochs": 60,
    "learning_rate": 3e-3,
}
PAPER: dict[str, Any] = {
    "norm_position": "post",
    "position_origin": "oldest",
    "embedding_layer_norm": True,
    "linear_initializer": "normal",
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
    "mlm_probability": 0.2,
    "last_item_probability": 0.1,
    "num_train_epochs": 200,
    "per_device_train_batch_size": 256,
    "learning_rate": 1e-4,
    "weight_decay": 0.01,
    "warmup_steps": 100,
    "max_grad_norm": 5.0,
    "lr_scheduler_type": "linear",
}
KLENITSKIY: dict[str, Any] = PAPER | {
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "head_transform": False,
    "last_item_probability": 0.0,
    "window": "newest",
    "per_device_train_batch_size": 128,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "lr_scheduler_type": "constant",
}
RECTOOLS: dict[str, Any] = KLENITSKIY | {
    "norm_position": "pre",
    "embedding_layer_norm": False,
    "linear_initializer": "xavier",
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 100,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
    "mlm_probability": 0.15,
    "mask_replace_prob": 0.8,
    "random_replace_prob": 0.1,
}
SASREC: dict[str, Any] = {
    "causal_probability": 1.0,
    "norm_position": "pre",
    "position_origin": "oldest",
    "embedding_layer_norm": False,
    "scale_embedding": True,
    "head_transform": False,
    "hidden_act": "relu",
    "num_attention_heads": 1,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "window": "newest",
    "num_train_epochs": 100,
    "per_device_train_batch_size": 128,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
}
RECIPES: dict[str, dict[str, Any]] = {
    "default": DEFAULT,
    "small": SMALL,
    "sparse": SPARSE,
    "paper": PAPER,
    "klenitskiy": KLENITSKIY,
    "rectools": RECTOOLS,
    "sasrec": SASREC,
}


# A trained model is continued for so many times fewer epochs than a new one is trained.
FINE_TUNING_SHARE = 5


def fine_tuned(recipe: dict[str, Any]) -> dict[str, Any]:
    r"""
    A recipe for continuing a trained model: a fifth of the epochs, a tenth of them to warm up, all else as it is.

    Args:
        recipe (`dict`): One of `RECIPES`.

    Returns:
        `dict`: options of [`train`].

    Example:
        >>> fine_tuned(RECIPES["default"])["num_train_epochs"]
        20
    """
    return recipe | {"num_train_epochs": recipe["num_train_epochs"] // FINE_TUNING_SHARE, "warmup_steps": 0.1}


def recipe_for(data: InteractionData) -> str:
    r"""
    The recipe of a run that names none.

    Args:
        data ([`InteractionData`]): The prepared log.

    Returns:
        `str`: `"sparse"` where an item has few events to train on, else `"small"` where users are few, else `"default"`.
    """
    if data.train_end.sum() < SPARSE_EVENTS_PER_ITEM * data.num_items:
        return "sparse"
    return "small" if data.num_users < SMALL_NUM_USERS else "default"
