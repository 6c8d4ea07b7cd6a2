"""
The training loss over the catalogue, computed without ever holding the matrix of all scores.

On a CPU the catalogue is read in tiles whose scores stay in the cache, where all three products run at the machine's full
rate; in bfloat16 the products run in bfloat16, everything else in float32.

*Source:* Sun et al. (CIKM 2019), section 3.6: the negative log-likelihood of the hidden items.
"""

import torch
from torch import nn

from .sharded_items import is_sharded, sharded_cross_entropy

# Rows of scores that exist at once on a GPU, and where the catalogue is split over processes.
ROWS_PER_CHUNK = 256
# On a CPU: items per tile (a megabyte or two of scores), rows and bytes of the scores that exist at once. Measured at 3,416
# and at 54,542 items with hidden 64, where whole rows of scores took half as long again.
ITEMS_PER_TILE = 4096
ROWS_PER_BLOCK = (64, 256)
BYTES_PER_BLOCK = 1 << 24


def catalogue_cross_entropy(
    hidden_states: torch.Tensor,
    item_embeddings: torch.Tensor,
    item_bias: torch.Tensor | None,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
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

    Returns:
        `torch.Tensor` of shape `()`: the mean in nats; 0 (with a gradient of 0) where nothing is labelled.

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
        summed = sharded_cross_entropy(hidden_states, item_embeddings, item_bias, labels, ROWS_PER_CHUNK)
    elif hidden_states.device.type == "cpu" and not torch.compiler.is_compiling():
        dtype, with_gradients = _product_dtype(hidden_states), torch.is_grad_enabled()
        summed = _TiledCrossEntropy.apply(hidden_states, item_embeddings, item_bias, labels, dtype, with_gradients)
    else:
        summed = _summed_cross_entropy(hidden_states, item_embeddings, item_bias, labels)
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
    is_cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if is_cast or hidden_states.dtype == torch.bfloat16:
        return torch.bfloat16
    return torch.promote_types(hidden_states.dtype, torch.float32)


class _TiledCrossEntropy(torch.autograd.Function):
    """Summed softmax cross-entropy; the gradients are computed with it, block of rows by block of rows."""

    @staticmethod
    @torch.no_grad()
    def forward(ctx, hidden_states, item_embeddings, item_bias, labels, dtype, with_gradients):
        is_label = labels.ne(-100)
        targets = labels[is_label]
        bias = item_embeddings.new_zeros(len(item_embeddings)) if item_bias is None else item_bias
        catalogue = _Catalogue(item_embeddings.to(dtype), bias.to(dtype), with_gradients)
        states = hidden_states[is_label].to(dtype)  # (labels, hidden)
        loss, gradient = catalogue.loss(states, targets)
        ctx.save_for_backward(is_label, gradient, catalogue.gradient, catalogue.bias_gradient)
        ctx.dtypes = [None if given is None else given.dtype for given in (hidden_states, item_embeddings, item_bias)]
        return loss

    @staticmethod
    def backward(ctx, *gradients):
        is_label, state_gradient, item_gradient, bias_gradient = ctx.saved_tensors
        hidden_dtype, item_dtype, bias_dtype = ctx.dtypes
        hidden_gradient = state_gradient.new_zeros((len(is_label), state_gradient.shape[1]), dtype=hidden_dtype)
        hidden_gradient[is_label] = (state_gradient * gradients[0]).to(hidden_dtype)
        bias_gradient = None if bias_dtype is None else (bias_gradient * gradients[0]).to(bias_dtype)
        return hidden_gradient, (item_gradient * gradients[0]).to(item_dtype), bias_gradient, None, None, None


class _Catalogue:
    """The output embedding in tiles of items, and its gradient; sums are kept in float32 or more."""

    def __init__(self, items: torch.Tensor, bias: torch.Tensor, with_gradients: bool):
        self.items, self.bias, self.with_gradients = items, bias, with_gradients
        self.sum_dtype = torch.promote_types(items.dtype, torch.float32)
        self.gradient = items.new_zeros(items.shape if with_gradients else (0,), dtype=self.sum_dtype)
        self.bias_gradient = items.new_zeros(bias.shape if with_gradients else (0,), dtype=self.sum_dtype)
        size = -(-len(items) // -(-len(items) // ITEMS_PER_TILE))
        self.tiles = [slice(start, min(start + size, len(items))) for start in range(0, len(items), size)]

    def loss(self, states: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss, and its gradient by the states; the gradient by the items is added to `gradient`."""
        fewest, most = ROWS_PER_BLOCK
        rows = min(max(BYTES_PER_BLOCK // (len(self.items) * self.items.element_size()), fewest), most)
        rows = max(1, min(rows, len(states)))
        # Fresh memory for every block would cost a third of the time: the system clears it page by page.
        memory = self.items.new_empty(rows * len(self.items))
        loss = states.new_zeros((), dtype=self.sum_dtype)
        gradient = states.new_empty(states.shape if self.with_gradients else (0,), dtype=self.sum_dtype)
        for start in range(0, len(states), rows):
            block, target = states[start : start + rows], targets[start : start + rows]
            target_items = self.items[target].to(self.sum_dtype)
            target_scores = (block * target_items).sum(1) + self.bias[target]  # (rows)
            probabilities, normalisers = self._softmax_by_tiles(block, memory)
            normaliser = normalisers.logsumexp(0)  # (rows)
            loss += (normaliser - target_scores).sum()
            if self.with_gradients:
                shares = (normalisers - normaliser).exp_()  # (tiles, rows): of each row's probability
                found = self._add_gradients(block, target, probabilities, shares)
                gradient[start : start + rows] = found - target_items
        return loss, gradient

    def _softmax_by_tiles(self, block: torch.Tensor, memory: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Per tile the softmax over its items alone, `(rows, items of the tile)`; the logarithms of their denominators."""
        probabilities, normalisers = [], []
        for tile in self.tiles:
            size = len(block) * (tile.stop - tile.start)
            scores, memory = memory[:size].view(len(block), -1), memory[size:]
            torch.addmm(self.bias[tile], block, self.items[tile].T, out=scores)
            highest = _row_max(scores).to(self.sum_dtype)
            torch.softmax(scores, 1, out=scores)
            # The largest probability is one over the sum of exp(score - highest).
            normalisers.append(highest - _row_max(scores).to(self.sum_dtype).log())
            probabilities.append(scores)
        return probabilities, torch.stack(normalisers)

    def _add_gradients(self, block, target, probabilities, shares) -> torch.Tensor:
        """Adds the block's gradients by items and bias; returns the expected item of each row, `(rows, hidden)`."""
        expected = torch.zeros(block.shape, dtype=self.sum_dtype)
        for tile, probability, share in zip(self.tiles, probabilities, shares, strict=True):
            expected += (probability @ self.items[tile]) * share[:, None]
            weighted = (block * share[:, None]).to(block.dtype)  # (rows, hidden)
            if block.dtype == self.sum_dtype:
                self.gradient[tile].addmm_(probability.T, weighted)
            else:
                self.gradient[tile] += probability.T @ weighted
            self.bias_gradient[tile] += (share.to(block.dtype)[None] @ probability)[0]
        self.gradient.index_add_(0, target, block.to(self.sum_dtype), alpha=-1)
        self.bias_gradient.index_add_(0, target, torch.ones_like(target, dtype=self.sum_dtype), alpha=-1)
        return expected


def _row_max(scores: torch.Tensor) -> torch.Tensor:
    """The highest of each row; in bfloat16 that of the bits, which takes a sixth of the time."""
    if scores.dtype != torch.bfloat16:
        return scores.amax(1)
    bits = scores.view(torch.int16)
    highest = bits.amax(1)
    # Sign and magnitude: of negative numbers the one with the lowest bits is the highest.
    return torch.where(highest < 0, bits.amin(1), highest).view(torch.bfloat16)
