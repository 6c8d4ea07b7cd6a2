"""
Configuration of BERT4Rec: every number that fixes the architecture and its loss.

*Source:* Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer"
(CIKM 2019), section 3, and Transformers' `BertConfig`, whose names are kept.

*Differences:* there are no segment embeddings, so `type_vocab_size` is missing; `norm_position`, `final_layer_norm`,
`position_origin`, `embedding_layer_norm`, `scale_embedding`, `head_layer_norm`, `head_transform`, `backbone`,
`linear_initializer`, `value_initializer`, `num_members`, `reading`, `training_loss` and what belongs to it are ours. The sizes
by default are the paper's smallest model on MovieLens-1M.
"""

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

# Tokens 0, 1 and 2 are padding, mask and unknown item; items follow.
FIRST_ITEM_TOKEN = 3
READINGS = ("masked", "causal", "both")
TRAINING_LOSSES = ("softmax", "sampled_softmax", "gbce", "bce")


@strict
class Bert4RecConfig(PreTrainedConfig):
    r"""
    Configuration of [`Bert4RecModel`] and [`Bert4RecForMaskedLM`].

    Args:
        vocab_size (`int`, *optional*, defaults to 3709):
            Number of tokens: the items of the catalogue and the special tokens (padding, mask, unknown).
        hidden_size (`int`, *optional*, defaults to 64):
            Width of item, position and hidden vectors; a multiple of `num_attention_heads`.
        num_hidden_layers (`int`, *optional*, defaults to 2):
            Number of Transformer blocks.
        num_attention_heads (`int`, *optional*, defaults to 2):
            Number of attention heads in each block.
        intermediate_size (`int`, *optional*, defaults to 256):
            Width of the feed-forward layer.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the feed-forward layer and of the head.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.2):
            Dropout after the embeddings and after both halves of each block.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout on the attention weights; it costs a third of a training step on a CPU.
        max_position_embeddings (`int`, *optional*, defaults to 200):
            Length of the window: of a longer history the newest events are kept, [MASK] included.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights of embeddings and, with `linear_initializer="normal"`, of linear layers.
        backbone (`str`, *optional*, defaults to `"bert"`):
            Whose Transformer blocks: `"bert"`, or `"modernbert"`, which needs `norm_position="pre"`: positions are rotations of
            queries and keys instead of embeddings, and feed-forward layers are gated (so half as large again). It learns small
            logs better: NDCG@10 on MovieLens-100K's validation targets .123 for .112.
        linear_initializer (`str`, *optional*, defaults to `"normal"`):
            How linear layers start: `"normal"` as in BERT, or `"xavier"`, with which narrow models learn much faster.
        value_initializer (`str`, *optional*, defaults to `"linear"`):
            How the value and output projections of attention start: `"linear"`, as every linear layer, or `"identity"`, with
            which a [MASK] starts out like the mean of the items it sees, and the items of sparse logs are learned sooner.
        layer_norm_eps (`float`, *optional*, defaults to 1e-12):
            Epsilon of the layer norms.
        norm_position (`str`, *optional*, defaults to `"post"`):
            Where the layer norm of a block stands: `"post"`, after the residual sum (the paper), or `"pre"`, before each
            half of the block, with one more norm after the last block (see `final_layer_norm`).
        final_layer_norm (`bool`, *optional*, defaults to `True`):
            Whether with `norm_position="pre"` a norm follows the last block; models of other projects have none.
        position_origin (`str`, *optional*, defaults to `"oldest"`):
            Which event of the window has position 0: the `"oldest"` (the paper) or the `"newest"`.
        embedding_layer_norm (`bool`, *optional*, defaults to `True`):
            Whether the sum of item and position embedding is normalised, as in the authors' code and in BERT; the paper's
            equation does not. With `norm_position="pre"` a model without it learns several times faster.
        scale_embedding (`bool`, *optional*, defaults to `False`):
            Whether item embeddings are multiplied by the square root of `hidden_size / num_members` where they are read, as in
            SASRec; not where they score. With `norm_position="pre"` items with few events are learned several times faster.
        head_layer_norm (`bool`, *optional*, defaults to `True`):
            Whether the head normalises GELU(h W + b) before the product with the item embeddings, as the authors' code
            and BERT do; the paper's equation does not.
        head_transform (`bool`, *optional*, defaults to `True`):
            Whether the head has its dense layer, GELU and norm; without, an item's score is its plain product with the
            encoder's output (plus the item's bias), as in SASRec.
        num_members (`int`, *optional*, defaults to 1):
            Models that [`ensemble_models`] has put side by side in this one, each in its part of all vectors: norms are taken
            over each part by itself, and item embeddings, which hold a share of each score, are multiplied by their number
            where they are read. Further training joins the parts.
        reading (`str`, *optional*, defaults to `"masked"`):
            How [`Bert4RecForMaskedLM`] fills a [MASK] when it is not training: `"masked"`, by the output at the [MASK],
            which sees both sides (the paper); `"causal"`, by the output at the event before it, which sees that event and
            older ones; `"both"`, by the mean of the two. A model must have been trained on what it is asked for.
        training_loss (`str`, *optional*, defaults to `"softmax"`):
            Cross-entropy over the whole catalogue (`"softmax"`), or over drawn negatives, for catalogues of millions:
            `"sampled_softmax"` with log-Q correction, `"gbce"` of gSASRec, `"bce"` of SASRec.
        num_negatives (`int`, *optional*, defaults to 4096):
            Items that a sampled loss draws, uniformly and with replacement; SASRec draws 1.
        share_negatives (`bool`, *optional*, defaults to `True`):
            Whether all labels of a batch share one draw, which is much faster, or each draws for itself as in SASRec.
        gbce_t (`float`, *optional*, defaults to 0.75):
            Calibration of gBCE: 0 is binary cross-entropy, 1 undoes the overconfidence that sampling brings.
        is_decoder (`bool`, *optional*, defaults to `False`):
            Whether attention is causal: an event sees itself and older events only.
        pad_token_id (`int`, *optional*, defaults to 0):
            Token of the padding.
        mask_token_id (`int`, *optional*, defaults to 1):
            Token of [MASK], the hidden item.
        unk_token_id (`int`, *optional*, defaults to 2):
            Token of an unknown item.
        tie_word_embeddings (`bool`, *optional*, defaults to `True`):
            Whether the head scores with the input item embeddings.

    Raises:
        StrictDataclassError: If a field has a value that no model can be built from; its cause is a `ValueError` that names
            field, value and remedy.

    Example:
        >>> config = Bert4RecConfig(vocab_size=103, norm_position="pre")
        >>> config.hidden_size, config.norm_position
        (64, 'pre')
    """

    model_type = "bert4rec"

    vocab_size: int = 3709
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 256
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.2
    attention_probs_dropout_prob: float | int = 0.0
    max_position_embeddings: int = 200
    initializer_range: float | int = 0.02
    backbone: str = "bert"
    linear_initializer: str = "normal"
    value_initializer: str = "linear"
    layer_norm_eps: float | int = 1e-12
    norm_position: str = "post"
    final_layer_norm: bool = True
    position_origin: str = "oldest"
    embedding_layer_norm: bool = True
    scale_embedding: bool = False
    head_layer_norm: bool = True
    head_transform: bool = True
    num_members: int = 1
    reading: str = "masked"
    training_loss: str = "softmax"
    num_negatives: int = 4096
    share_negatives: bool = True
    gbce_t: float | int = 0.75
    is_decoder: bool = False
    add_cross_attention: bool = False
    use_cache: bool = False
    pad_token_id: int | None = 0
    mask_token_id: int | None = 1
    unk_token_id: int | None = 2
    tie_word_embeddings: bool = True

    # What `DistributedConfig(tp_size=...)` splits over processes; the head's part is with the head.
    base_model_tp_plan = {"embeddings.word_embeddings": "item_rows"}

    def __post_init__(self, **kwargs):
        # A folder may ship its code. Where this class was not loaded from it, it is not needed: without what points to it
        # Transformers takes the installed classes, asks nobody to trust the folder, and saves no reference to missing files.
        if self._auto_class is None:
            for name in ("auto_map", "custom_pipelines"):
                kwargs.pop(name, None)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Called by `@strict` after each construction; raises `ValueError` in one line."""
        for name, choices in (
            ("backbone", ("bert", "modernbert")),
            ("norm_position", ("post", "pre")),
            ("position_origin", ("oldest", "newest")),
            ("linear_initializer", ("normal", "xavier")),
            ("value_initializer", ("linear", "identity")),
            ("reading", READINGS),
        ):
            if getattr(self, name) not in choices:
                *first, last = map(repr, choices)
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose {', '.join(first)} or {last}.")
        if not self.final_layer_norm and self.norm_position == "post":
            raise ValueError(
                "final_layer_norm is False and norm_position 'post': its last block ends in a norm; choose norm_position 'pre'."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act is {self.hidden_act!r}; choose one of {', '.join(ACT2FN)}.")
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in (*sizes, "max_position_embeddings", "num_members"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1.")
        for name in ("num_attention_heads", "num_members"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of {name} {getattr(self, name)}; change one of the two."
                )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a share from 0 up to, not including, 1.")
        for name in ("initializer_range", "layer_norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0.")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id is {self.pad_token_id}; give a token from 0 to {self.vocab_size - 1}.")
        if self.add_cross_attention:
            raise ValueError("add_cross_attention is True; BERT4Rec has no encoder to attend to, leave it False.")

    def validate_backbone(self):
        """Called by `@strict` after each construction; raises `ValueError` in one line."""
        if self.backbone == "modernbert" and self.norm_position == "post":
            raise ValueError(
                "backbone is 'modernbert' and norm_position 'post': its blocks normalise what they read; choose norm_position "
                "'pre' or backbone 'bert'."
            )
        if self.backbone == "modernbert" and self.hidden_size / self.num_attention_heads % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} over num_attention_heads {self.num_attention_heads} is not even, and backbone "
                "'modernbert' rotates pairs of numbers; change one of the two."
            )

    def validate_training_loss(self):
        """Called by `@strict` after each construction; raises `ValueError` in one line."""
        if self.training_loss not in TRAINING_LOSSES:
            raise ValueError(f"training_loss is {self.training_loss!r}; choose one of {', '.join(TRAINING_LOSSES)}.")
        if self.num_negatives < 1:
            raise ValueError(f"num_negatives is {self.num_negatives}; give at least 1.")
        if not 0 <= self.gbce_t <= 1:
            raise ValueError(f"gbce_t is {self.gbce_t}; give a share between 0 and 1.")
        if self.training_loss != "softmax" and self.vocab_size <= FIRST_ITEM_TOKEN:
            raise ValueError(
                f"training_loss {self.training_loss!r} needs items to draw from, vocab_size is {self.vocab_size}; give the "
                f"number of items + {FIRST_ITEM_TOKEN}."
            )


__all__ = ["FIRST_ITEM_TOKEN", "Bert4RecConfig"]
