"""
New and retired items: the items of a trained model become those of other data, tokenizer and model in step.

The encoder stays, and so do the rows of the items that both know. A retired item, one that the new data do not hold, loses
token and row: whatever reads the scores (pipeline, export, server) cannot name it, and training spends no probability on it.
In a history it is an unknown item, skipped and counted. Items to be kept are named in `prepare(vocabulary=)`.

*Source:* a new token at the mean of the others as in Transformers' `resize_token_embeddings`; vectors of content mapped to
item embeddings as in Gantner et al., "Learning Attribute-to-Feature Mappings for Cold-Start Recommendations" (ICDM 2010), by
ridge regression with the strength of generalised cross-validation (Golub, Heath & Wahba, Technometrics 21, 1979).
*Differences:* an item's bias starts as its embedding does; no noise is added, as items that start alike are soon told apart.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .interactions import InteractionData
from .item_ids import INTEGER_TEXT
from .modeling_bert4rec import Bert4RecForMaskedLM
from .sequences import training_events
from .tokenization_bert4rec import Bert4RecTokenizer

STARTS = ("neighbours", "mean", "random")
# How far apart two events of a user are at most for their items to be neighbours.
NEIGHBOUR_DISTANCE = 5
USERS_AT_ONCE = 1024
# Strengths of the ridge that are tried, as shares of the largest variance among the vectors.
RIDGE_STRENGTHS = 10.0 ** np.arange(-8, 3, 0.5)

Vectors = tuple[dict[str, int], np.ndarray]


def change_catalogue(
    model: Bert4RecForMaskedLM,
    tokenizer: Bert4RecTokenizer,
    data: InteractionData,
    *,
    new_items: str | Path | Mapping[Any, Any] = "neighbours",
) -> tuple[Bert4RecForMaskedLM, Bert4RecTokenizer]:
    r"""
    A copy of a model and its tokenizer whose items are those of other data, without training: an item that both know
    has the same score after the same history as before.

    Args:
        model ([`Bert4RecForMaskedLM`]): The trained model.
        tokenizer ([`Bert4RecTokenizer`]): Its tokenizer.
        data ([`InteractionData`]): What `prepare` made of the new log, without the old vocabulary.
        new_items (`str`, `Path` or mapping, *optional*, defaults to `"neighbours"`):
            Where the embedding and bias of an item start that the model does not know. `"neighbours"`: at the mean of the
            known items that stand within five events of it in the training part of the data, nearer ones counting more;
            `"mean"`: at the mean of all items; `"random"`: as in a new model. A mapping from item id to a vector, such as
            the embedding of a text, or a Parquet file with the columns `item_id` and `vector`: where a ridge regression,
            fitted on the items that the model knows, puts the vector. An item without a vector starts at its neighbours,
            and without neighbours at the mean.

    Returns:
        `tuple`: the new model, in evaluation mode, and its tokenizer. Titles of the data go before those of the tokenizer.

    Raises:
        ValueError: If the model knows none of the items, if tokenizer and model are of different sizes, or if `new_items`
            cannot be used.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer, change_catalogue, prepare
        >>> tokenizer = Bert4RecTokenizer.from_items(["old", "b", "c"])
        >>> model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=6))
        >>> log = pd.DataFrame({"user_id": list("uuvv"), "item_id": ["b", "new", "c", "b"], "timestamp": range(4)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = prepare(log, folder + "/data", min_user_events=1, min_item_events=1)
        ...     model, tokenizer = change_catalogue(model, tokenizer, data)
        >>> tokenizer.item_ids, model.config.vocab_size
        (['b', 'c', 'new'], 6)
    """
    config = copy.deepcopy(model.config)
    config.vocab_size = data.num_items + FIRST_ITEM_TOKEN
    changed = type(model)(config).to(model.device, model.dtype)
    take_weights(changed, model, tokenizer, data, new_items=new_items)
    return changed.eval(), tokenizer_of(data, tokenizer)


@torch.no_grad()
def take_weights(
    model: Bert4RecForMaskedLM,
    known: Bert4RecForMaskedLM,
    tokenizer: Bert4RecTokenizer,
    data: InteractionData,
    *,
    new_items: str | Path | Mapping[Any, Any] = "neighbours",
) -> dict[str, int]:
    r"""
    Give a new model of the data's items the weights of a trained one of the same architecture.

    Args:
        model ([`Bert4RecForMaskedLM`]): The new model; of its own weights it keeps those of `"random"` new items.
        known ([`Bert4RecForMaskedLM`]): The trained model.
        tokenizer ([`Bert4RecTokenizer`]): That of the trained model.
        data, new_items: See [`change_catalogue`].

    Returns:
        `dict`: `num_known_items`, `num_new_items` and `num_retired_items`.

    Raises:
        ValueError: See [`change_catalogue`].
    """
    vectors = read_vectors(new_items)
    places = _known_places(known, tokenizer, data)
    own, theirs = _tables(model), _tables(known)
    for (name, parameter), (_, value) in zip(model.named_parameters(), known.named_parameters(), strict=True):
        if name not in own:
            parameter.copy_(value)
    values, rows = _item_rows(theirs), _item_rows(own)  # (num_items, width)
    is_new = places < 0
    rows[~is_new] = values[places[~is_new]]
    if new_items != "random":
        rows[is_new] = values.mean(0)
        if new_items != "mean":
            _start_at_neighbours(rows, is_new, data)
        if vectors is not None:
            _start_at_vectors(rows, is_new, data, vectors)
    start = 0
    for table, old in zip(own.values(), theirs.values(), strict=True):
        width = table[0].numel()
        table[:FIRST_ITEM_TOKEN] = old[:FIRST_ITEM_TOKEN]
        table[FIRST_ITEM_TOKEN:] = rows[:, start : start + width].view_as(table[FIRST_ITEM_TOKEN:])
        start += width
    counts = {"num_known_items": int((~is_new).sum()), "num_new_items": int(is_new.sum())}
    return counts | {"num_retired_items": tokenizer.num_items - counts["num_known_items"]}


def tokenizer_of(data: InteractionData, known: Bert4RecTokenizer | None = None) -> Bert4RecTokenizer:
    r"""
    The tokenizer of a model of prepared data.

    Args:
        data ([`InteractionData`]): Its items, in order, and their titles.
        known ([`Bert4RecTokenizer`], *optional*):
            The tokenizer of the model that is continued: it has the titles that the data lack, and its ids stay integers
            where all items are.

    Returns:
        [`Bert4RecTokenizer`].
    """
    items: list[str] = data.item_ids.to_pylist()
    titles = [None] * len(items) if data.titles is None else data.titles.to_pylist()
    is_integer = data.item_id_type == "int"
    if known is not None:
        titles = [known.title(item) if title is None else title for item, title in zip(items, titles, strict=True)]
        is_integer |= known.item_id_type == "int" and all(map(INTEGER_TEXT.fullmatch, items))
    return Bert4RecTokenizer.from_items(items, titles=titles, item_id_type="int" if is_integer else "str")


def read_vectors(new_items: str | Path | Mapping[Any, Any]) -> Vectors | None:
    r"""
    The vectors that new items start from.

    Args:
        new_items: See [`change_catalogue`].

    Returns:
        `tuple` of a `dict` from item id, as text, to row and an `np.ndarray` of shape `(num_vectors, size)`; `None` for a
        start without vectors.

    Raises:
        ValueError: If there is neither a start nor a file of that name, or if the vectors are not of one length or not
            finite.
    """
    if isinstance(new_items, Mapping):
        ids, vectors = list(map(str, new_items)), list(new_items.values())
    elif new_items in STARTS:
        return None
    else:
        ids, vectors = _vectors_in_file(Path(new_items))
    try:
        table = np.array([np.asarray(vector, dtype=np.float64) for vector in vectors])
    except (TypeError, ValueError):
        table = np.empty(0)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(
            "new_items has to give each item a vector of finite numbers, all of one length; correct them."
        )
    return {item: row for row, item in enumerate(ids)}, table


def _vectors_in_file(path: Path) -> tuple[list[str], list[Any]]:
    choices = f"{', '.join(STARTS)}, or a Parquet file with the columns item_id and vector"
    if not path.is_file():
        raise ValueError(f"new_items is {str(path)!r}, which is no start of new items and no file; give {choices}.")
    try:
        table = pq.read_table(path, columns=["item_id", "vector"])
    except (pa.ArrowException, ValueError, KeyError):
        table = pa.table({})
    if table.num_columns != 2:
        raise ValueError(f"{path} is no Parquet file with the columns item_id and vector; give {choices}.")
    return list(map(str, table["item_id"].to_pylist())), table["vector"].to_pylist()


def _known_places(known: Bert4RecForMaskedLM, tokenizer: Bert4RecTokenizer, data: InteractionData) -> np.ndarray:
    """For each item of the data its place in the known model's catalogue, -1 for a new one."""
    if len(tokenizer) != known.config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the model {known.config.vocab_size}; load both from one folder."
        )
    place_of = {str(item): place for place, item in enumerate(tokenizer.item_ids)}
    places = np.array([place_of.get(item, -1) for item in data.item_ids.to_pylist()])
    if (places < 0).all():
        raise ValueError(
            f"The model knows none of the {data.num_items} items of {data.folder} ({data.item_ids[0].as_py()!r} ...; its own "
            f"are {next(iter(place_of))!r} ...); give a log with the same item ids, or train without a model."
        )
    return places


def _tables(model: Bert4RecForMaskedLM) -> dict[str, torch.nn.Parameter]:
    """The parameters with a row for each token; shared ones once."""
    head = model.get_output_embeddings()
    per_token = (model.get_input_embeddings().weight, head.weight, head.bias)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if any(parameter is table for table in per_token)
    }


def _item_rows(tables: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    """What tables hold of each item, side by side: of shape `(num_items, sum of widths)`."""
    return torch.cat([table[FIRST_ITEM_TOKEN:, None].flatten(1).float().cpu() for table in tables.values()], 1)


def _start_at_neighbours(rows: torch.Tensor, is_new: np.ndarray, data: InteractionData):
    """Put each new item at the mean of the known items near it, an event at distance d counting 1 / d."""
    tokens, offsets = training_events(data)
    new = torch.from_numpy(is_new)
    sums, weights = torch.zeros_like(rows), torch.zeros(len(rows))
    for first in range(0, len(offsets) - 1, USERS_AT_ONCE):
        borders = offsets[first : first + USERS_AT_ONCE + 1]
        items = torch.from_numpy(tokens[borders[0] : borders[-1]].astype(np.int64) - FIRST_ITEM_TOKEN)
        users = torch.from_numpy(np.repeat(np.arange(len(borders) - 1), np.diff(borders)))
        for distance in range(1, NEIGHBOUR_DISTANCE + 1):
            earlier, later = items[:-distance], items[distance:]
            is_near = users[:-distance] == users[distance:]
            for own, other in ((earlier, later), (later, earlier)):
                is_asked = is_near & new[own] & ~new[other]
                sums.index_add_(0, own[is_asked], rows[other[is_asked]], alpha=1 / distance)
                weights.index_add_(0, own[is_asked], torch.full((int(is_asked.sum()),), 1 / distance))
    found = weights > 0
    rows[found] = sums[found] / weights[found, None]


def _start_at_vectors(rows: torch.Tensor, is_new: np.ndarray, data: InteractionData, vectors: Vectors):
    """Put each new item that has a vector where the known items that have one say it belongs."""
    row_of, table = vectors
    places = np.array([row_of.get(item, -1) for item in data.item_ids.to_pylist()])
    is_taught, is_wanted = ~is_new & (places >= 0), is_new & (places >= 0)
    if is_taught.sum() < 2:
        raise ValueError(
            f"new_items has vectors of {is_taught.sum()} items that the model knows, too few to learn from; give vectors of "
            "known items too, under the ids of the log."
        )
    taught, wanted = (torch.from_numpy(table[places[chosen]]) for chosen in (is_taught, is_wanted))
    rows[is_wanted] = ridge_regression(taught, rows[is_taught].double(), wanted).float()


def ridge_regression(vectors: torch.Tensor, values: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    r"""
    Predict values linearly from vectors, with an intercept, shrunk as generalised cross-validation finds best.

    Args:
        vectors (`torch.DoubleTensor` of shape `(num_known, size)`): What is known of both.
        values (`torch.DoubleTensor` of shape `(num_known, width)`): Their values.
        asked (`torch.DoubleTensor` of shape `(num_asked, size)`): Whose values are wanted.

    Returns:
        `torch.DoubleTensor` of shape `(num_asked, width)`.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.double)
        >>> ridge_regression(points, 2 * points + 1, torch.tensor([[10.0]], dtype=torch.double)).round(decimals=3)
        tensor([[21.]], dtype=torch.float64)
    """
    centre, level = vectors.mean(0), values.mean(0)
    features, targets = vectors - centre, values - level
    variances, axes = torch.linalg.eigh(features.T @ features)  # (size,), (size, size)
    variances = variances.clamp(min=0)
    along = axes.T @ (features.T @ targets)  # (size, width)
    powers, total = along.square().sum(1), targets.square().sum()
    best: tuple[float, Any] = (float("inf"), 0.0)
    for strength in RIDGE_STRENGTHS * max(float(variances.max()), 1e-12):
        shrunk = variances + strength
        error = total - (powers * (variances + 2 * strength) / shrunk**2).sum()
        freedom = len(vectors) - 1 - (variances / shrunk).sum()
        best = min(best, (float(error / freedom.clamp(min=1e-9) ** 2), strength))
    return level + (asked - centre) @ (axes @ (along / (variances + best[1])[:, None]))


__all__ = ["STARTS", "change_catalogue", "read_vectors", "ridge_regression", "take_weights", "tokenizer_of"]
