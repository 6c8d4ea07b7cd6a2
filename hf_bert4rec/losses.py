"""
The training loss over the catalogue, computed without ever holding the matrix of all scores.

On a CPU the catalogue is read in tiles whose scores stay in the cache, where all three products run at the machine's full
rate; in bfloat16 the products run in bfloat16, everything else in float32.

*Source:* Sun et al. (CIKM 2019), section 3.6: the negative log-likelihood of the hidden items.
"""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from .product_sizes import autocast_dtype
from .sharded_items import is_sharded, sharded_cross_entropy
from .soft_targets import SoftTargets, label_over_expected

# Rows of scores that exist at once on a GPU, and where the catalogue is split over processes.
ROWS_PER_CHUNK = 256
# On a CPU: items per tile (a megabyte or two of scores), rows and bytes of the scores that exist at once. Measured at 3,416
# and at 54,542 items with hidden 64, where whole rows of scores took half as long again, and blocks of 16 MiB, whose products
# are shorter, a twentieth; more than 32 MiB the C library gives back to the system after each step (`process_memory`).
ITEMS_PER_TILE = 4096
ROWS_PER_BLOCK = (64, 256)
BYTES_PER_BLOCK = 3 << 23
# Bytes. Rows of scores start at a line of the cache, and an odd number of lines apart, so that they do not all fall into the
# same few places of it: products that begin within lines take a sixth longer, those of rows 4,096 numbers apart a tenth.
CACHE_LINE = 64
# Exponentials of scores are taken as they are where their sums lie between these: what is lost of them in float32 is less
# than its rounding. A maximum taken off each row first, which any score needs, costs a tenth of the loss.
SMALL_SUMS = (1e-20, 1e20)
# Of scores times this, powers of two are the exponentials, and take half of their time.
LOG2_E = 1 / math.log(2)


def catalogue_cross_entropy(
    hidden_states: torch.Tensor,
    item_embeddings: torch.Tensor,
    item_bias: torch.Tensor | None,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    *,
    teacher: SoftTargets | None = None,
) -> torch.Tensor:
    r"""
    Softmax cross-entropy of each label over the whole catalogue.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_labels, hidden_size)`): One vector per hidden item.
        item_embeddings (`torch.Tensor` of shape `(vocab_size, hidden_size)`): The output embedding.
        item_bias (`torch.Tensor` of shape `(vocab_size,)`, *optional*): Added to the scores.
        labels (`torch.LongTensor` of shape `(num_labels,)`): Token of each hidden item; -100 is ignored.
        num_items_in_batch (`int`, *optional*):
            Number of labels the sum is divided by: those of all accumulated batches and processes, as `Trainer` counts
            them. `None`: those given here.
        teacher ([`SoftTargets`], *optional*): For the same labels.

    Returns:
        `torch.Tensor` of shape `()`: the mean in nats; 0 (with a gradient of 0) where nothing is labelled.

    Raises:
        ValueError: If there is a teacher and the item embedding is sharded over processes.

    Example:
        >>> loss = catalogue_cross_entropy(torch.zeros(2, 4), torch.zeros(8, 4), None, torch.tensor([3, 5]))
        >>> round(loss.exp().item(), 3)
        8.0
    """
    if num_items_in_batch is None:
        num_items_in_batch = labels.ne(-100).sum().clamp(min=1)
    if labels.numel() == 0 and not is_sharded(item_embeddings):
        # Nothing hidden in this part of the batch: the graph must reach every parameter all the same.
        return (hidden_states.sum() + item_embeddings.sum() * 0 + (0 if item_bias is None else item_bias.sum())) * 0
    if is_sharded(item_embeddings):
        if teacher is not None:
            raise ValueError(
                "The item embedding is sharded over processes, where a teacher of the whole softmax cannot be heard; choose "
                "training_loss='sampled_softmax', or train without a teacher."
            )
        summed = sharded_cross_entropy(hidden_states, item_embeddings, item_bias, labels, ROWS_PER_CHUNK)
    elif hidden_states.device.type == "cpu" and not torch.compiler.is_compiling():
        dtype, with_gradients = _product_dtype(hidden_states), torch.is_grad_enabled()
        summed = _TiledCrossEntropy.apply(hidden_states, item_embeddings, item_bias, labels, dtype, with_gradients)
    else:
        summed = _summed_cross_entropy(hidden_states, item_embeddings, item_bias, labels)
    if teacher is not None:
        over_expected = label_over_expected(hidden_states, item_embeddings, item_bias, labels, teacher)
        summed = summed + teacher.weight * over_expected
    if isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(summed.device)
    return summed / num_items_in_batch


def _summed_cross_entropy(hidden_states, item_embeddings, item_bias, labels) -> torch.Tensor:
    # In bfloat16 the sum over the chunks would lose its last digits: 13 % of it at 50,000 labels.
    hidden_states, item_embeddings = hidden_states.float(), item_embeddings.float()
    item_bias = None if item_bias is None else item_bias.float()
    # The chunked loss cannot be traced; a compiler builds the plain one and fuses it.
    options = None
    if not torch.compiler.is_compiling():
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=ROWS_PER_CHUNK)
    return nn.functional.linear_cross_entropy(
        hidden_states, item_embeddings, labels, linear_bias=item_bias, reduction="sum", options=options
    )


def _product_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    """bfloat16 where autocast or the model asks for it on a CPU, otherwise float32 or more."""
    if torch.bfloat16 in (autocast_dtype(), hidden_states.dtype):
        return torch.bfloat16
    return torch.promote_types(hidden_states.dtype, torch.float32)


class _TiledCrossEntropy(torch.autograd.Function):
    """Summed softmax cross-entropy; the gradients are computed with it, block of rows by block of rows."""

    @staticmethod
    @torch.no_grad()
    def forward(ctx, hidden_states, item_embeddings, item_bias, labels, dtype, with_gradients):
        given = hidden_states, item_embeddings, item_bias, labels
        loss, *ctx.gradients = _loss_and_gradients(given, dtype, with_gradients)
        ctx.save_for_backward(*given)
        ctx.dtype = dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        # Handed on and not kept, so that neither the product nor autograd's sum with other gradients of the items needs another
        # block as large as the catalogue. A second pass through the graph starts anew.
        given = ctx.saved_tensors
        found, ctx.gradients = ctx.gradients or _loss_and_gradients(given, ctx.dtype, True)[1:], None
        pairs = zip(found, given[:3], strict=True)
        return *(None if to is None else each.mul_(gradients[0]).to(to.dtype) for each, to in pairs), None, None, None


def _loss_and_gradients(given: tuple, dtype: torch.dtype, with_gradients: bool) -> tuple[torch.Tensor, ...]:
    """The summed loss; its gradients by states, items and bias, in float32 or more."""
    hidden_states, item_embeddings, item_bias, labels = given
    is_label = labels.ne(-100)
    bias = item_embeddings.new_zeros(len(item_embeddings)) if item_bias is None else item_bias
    catalogue = _Catalogue(item_embeddings.to(dtype), bias.to(dtype), with_gradients)
    with torch.autocast("cpu", enabled=False):  # products are of `dtype`; exponentials overflow in float16
        loss, found = catalogue.loss(hidden_states[is_label].to(dtype), labels[is_label])
    gradient = found.new_zeros(hidden_states.shape if with_gradients else (0,))
    if with_gradients:
        gradient[is_label] = found
    return loss, gradient, catalogue.gradient, catalogue.bias_gradient


class _Catalogue:
    """The output embedding in tiles of items, and its gradient; sums are kept in float32 or more."""

    def __init__(self, items: torch.Tensor, bias: torch.Tensor, with_gradients: bool):
        self.items, self.bias, self.with_gradients = items, bias, with_gradients
        self.sum_dtype = torch.promote_types(items.dtype, torch.float32)
        self.gradient = items.new_zeros(items.shape if with_gradients else (0,), dtype=self.sum_dtype)
        self.bias_gradient = items.new_zeros(bias.shape if with_gradients else (0,), dtype=self.sum_dtype)
        size = -(-len(items) // -(-len(items) // ITEMS_PER_TILE))
        self.tiles = [slice(start, min(start + size, len(items))) for start in range(0, len(items), size)]
        in_line = CACHE_LINE // items.element_size()
        self.stride = (-(-size // in_line) | 1) * in_line  # numbers from one row of a tile's scores to the next
        self.are_small = True  # the scores, as far as is known

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss, and its gradient by the states; the gradient by the items is added to `gradient`."""
        rows, most_rows = self._rows_per_block(len(states))
        # Fresh memory for every block would cost a third of the time: the system clears it page by page.
        memory = self.items.new_empty(most_rows * self.stride * len(self.tiles))
        target_items = self.items[targets].to(self.sum_dtype)  # (rows, hidden)
        normalisers = states.new_empty(len(states), dtype=self.sum_dtype)
        gradient = states.new_empty(states.shape if self.with_gradients else (0,), dtype=self.sum_dtype)
        for start in range(0, len(states), rows):
            block = states[start : start + rows]
            num_rows = len(block)
            if self.items.dtype == torch.bfloat16:  # each new number of rows costs programs for the products
                block = nn.functional.pad(block, (0, 0, 0, rows - num_rows))
            weights, shares, found = self._softmax(block, memory)
            normalisers[start : start + rows] = found[:num_rows]
            if self.with_gradients:
                shares[:, num_rows:] = 0
                gradient[start : start + rows] = self._add_gradients(block, weights, shares)[:num_rows]
        if self.with_gradients:
            gradient -= target_items
            self.gradient.index_add_(0, targets, states.to(self.sum_dtype), alpha=-1)
            self.bias_gradient.index_add_(0, targets, torch.ones_like(targets, dtype=self.sum_dtype), alpha=-1)
        target_scores = (states * target_items).sum(1) + self.bias[targets]
        return (normalisers - target_scores).sum(), gradient

    def _rows_per_block(self, num_rows: int) -> tuple[int, int]:
        """Rows of each block, and the most of any: memory of one size can be had again where others were."""
        fewest, most = ROWS_PER_BLOCK
        rows = min(max(BYTES_PER_BLOCK // (len(self.items) * self.items.element_size()), fewest), most)
        # Blocks of like size, as products of few rows are slow, and of whole vectors.
        num_blocks = max(1, math.ceil(num_rows / rows))
        rows_of_each = min(rows, 8 * max(1, math.ceil(num_rows / num_blocks / 8)))
        return rows_of_each, rows_of_each if num_blocks == 1 else rows

    def _scores(self, block: torch.Tensor, bias: torch.Tensor, memory: torch.Tensor) -> Iterator[torch.Tensor]:
        """Tile by tile the scores of its items, `(rows, items of the tile)`, one behind the other in `memory`."""
        for tile in self.tiles:
            num_items = tile.stop - tile.start
            # Where the softmax is torch's own it would copy rows that do not follow one another.
            size = len(block) * (self.stride if self.are_small else num_items)
            scores, memory = memory[:size].view(len(block), -1)[:, :num_items], memory[size:]
            yield torch.addmm(bias[tile], block, self.items[tile].T, out=scores)

    def _softmax(self, block, memory) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """
        Probabilities as weights of each tile's items, `(rows, items of the tile)`, times shares of the rows, `(1 or tiles,
        rows)`; and the logarithm of the sum of all exponentials, `(rows,)`.
        """
        if self.are_small:
            weights, total = [], block.new_zeros(len(block), dtype=self.sum_dtype)
            for scores in self._scores(block * LOG2_E, self.bias * LOG2_E, memory):
                weights.append(scores.exp2_())
                total += scores.sum(1, dtype=self.sum_dtype)
            if bool(((total > SMALL_SUMS[0]) & (total < SMALL_SUMS[1])).all()):
                return weights, total.reciprocal()[None], total.log()
            self.are_small = False
        weights, normalisers = [], []
        for scores in self._scores(block, self.bias, memory):
            highest = scores.amax(1).to(self.sum_dtype)
            weights.append(torch.softmax(scores, 1, out=scores))
            # The largest probability is one over the sum of exp(score - highest).
            normalisers.append(highest - scores.amax(1).to(self.sum_dtype).log())
        by_tile = torch.stack(normalisers)
        normaliser = by_tile.logsumexp(0)
        return weights, (by_tile - normaliser).exp_(), normaliser

    def _add_gradients(self, block, weights, shares) -> torch.Tensor:
        """Adds the block's gradients by items and bias; returns the expected item of each row, `(rows, hidden)`."""
        expected = []
        scaled = (block * shares[:, :, None]).to(block.dtype).expand(len(weights), -1, -1)  # (tiles, rows, hidden)
        parts = zip(self.tiles, weights, shares.to(block.dtype).expand(len(weights), -1), scaled, strict=True)
        for tile, weight, share, states in parts:
            expected.append(weight @ self.items[tile])
            if block.dtype == self.sum_dtype:
                self.gradient[tile].addmm_(weight.T, states)
                self.bias_gradient[tile].addmv_(weight.T, share)
            else:
                self.gradient[tile] += weight.T @ states
                self.bias_gradient[tile] += share @ weight  # half of the time of `weight.T @ share`
        return (torch.stack(expected) * shares[:, :, None]).sum(0)
