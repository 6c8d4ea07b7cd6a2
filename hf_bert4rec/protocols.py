"""
Which items compete with the target, from which data, and what makes two figures comparable or not.

*Source:* the whole catalogue as in Krichene & Rendle, "On Sampled Metrics for Item Recommendation" (KDD 2020); 100 popular
negatives as in Sun et al., "BERT4Rec" (CIKM 2019), section 4.2; `unfiltered` is how RecBole ranks sequential models; one
cut in time as in Ji et al., "A Critical Study on Data Leakage in Recommender System Offline Evaluation" (TOIS 2023).

*Differences:* negatives are drawn by counts of the training part; the authors' code counted test events too, so that its
figures are not exactly comparable with `popularity-100` here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .sequences import EvaluationSequences

if TYPE_CHECKING:
    from .interactions import InteractionData

DATA_OPTIONS = ("min_user_events", "min_item_events", "min_rating", "repeats")
COLD_SHARE_DIGITS = 4  # shares of cold targets that agree to this many digits are the same


@dataclass(frozen=True)
class Protocol:
    r"""
    Which items compete with the target.

    Args:
        name (`str`): The name that figures are published under.
        description (`str`): The same in one line, for people.
        candidates (`str`): What the target is ranked against, in a few words.
        filters_seen (`bool`, *optional*, defaults to `True`):
            Whether items of the history are forbidden (the target itself never is).
        num_negatives (`int`, *optional*): Rivals drawn for each user; `None`: the whole catalogue.
        by_popularity (`bool`, *optional*, defaults to `False`): Whether rivals are drawn by their number of training events.
        only_known (`bool`, *optional*, defaults to `False`):
            Whether an item without a training event is never listed: it is no rival, and missed as a target.
        data_split (`str`, *optional*): The split of the data that the protocol needs; `None`: any.
    """

    name: str
    description: str
    candidates: str
    filters_seen: bool = True
    num_negatives: int | None = None
    by_popularity: bool = False
    only_known: bool = False
    data_split: str | None = None


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "full-catalogue",
            "the target against every item; items of the history are forbidden",
            "all items",
        ),
        Protocol(
            "unfiltered",
            "the target against every item; nothing is forbidden, as RecBole ranks",
            "all items",
            filters_seen=False,
        ),
        Protocol(
            "popularity-100",
            "the target against 100 unseen items, drawn by their training events (the paper's authors counted test events too)",
            "100 items drawn by popularity",
            num_negatives=100,
            by_popularity=True,
        ),
        Protocol(
            "uniform-100",
            "the target against 100 unseen items, each as likely as the other",
            "100 items drawn uniformly",
            num_negatives=100,
        ),
        Protocol(
            "temporal",
            "data cut at one time (prepare --split global-time); the target against the items known from training, a target "
            "that is not among them is missed",
            "items known from training",
            only_known=True,
            data_split="global-time",
        ),
    )
}


def find_protocol(name: str, data: InteractionData) -> Protocol:
    r"""
    The protocol of this name, fit for these data.

    Args:
        name (`str`): A name in `PROTOCOLS`.
        data ([`InteractionData`]): What is to be evaluated on.

    Returns:
        [`Protocol`].

    Raises:
        ValueError: If there is no such protocol, or if it needs data that are split in another way.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"There is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}.")
    protocol = PROTOCOLS[name]
    if protocol.data_split is not None and data.metadata["split"] != protocol.data_split:
        raise ValueError(
            f"Protocol {name} needs data split by {protocol.data_split}, but these are split by {data.metadata['split']}; "
            f"prepare the log with --split {protocol.data_split}, or choose another protocol."
        )
    return protocol


def conditions(
    sequences: EvaluationSequences, item_counts: np.ndarray, *, protocol: str = "full-catalogue", seed: int = 0
) -> dict[str, Any]:
    r"""
    The facts that decide what the figures of an evaluation are comparable with.

    Args:
        sequences ([`EvaluationSequences`]): The split that was evaluated.
        item_counts (`np.ndarray` of shape `(vocab_size,)`): Training events of each token.
        protocol (`str`, *optional*, defaults to `"full-catalogue"`): A name in `PROTOCOLS`.
        seed (`int`, *optional*, defaults to 0): Fixed the negatives that were drawn.

    Returns:
        `dict`: `description`, `candidates`, `seen_items`, `ties`, `tie_order`, `cold_targets`, `trained_on`,
        `targets` (a checksum, see [`targets_checksum`]) and `data` (sizes, split and filters); where negatives are drawn
        `seed` and `negatives_counted`; under a protocol of known items `temporal` (warm and cold users and items).
    """
    data, rules = sequences.data, find_protocol(protocol, sequences.data)
    facts: dict[str, Any] = {
        "description": rules.description,
        "candidates": rules.candidates,
        "seen_items": "forbidden" if rules.filters_seen else "allowed",
        "ties": "half",
        "tie_order": "as in the log",
        "cold_targets": "missed" if rules.only_known else "ranked",
        "trained_on": _trained_on(data),
        "targets": targets_checksum(sequences, item_counts),
        "data": {
            "num_users": data.num_users,
            "num_items": data.num_items,
            "num_events": data.num_events,
            "split": data.metadata["split"],
            **{name: data.metadata["options"].get(name) for name in DATA_OPTIONS},
        },
    }
    if rules.num_negatives is not None:
        facts["seed"] = seed
        facts["negatives_counted"] = "training events" if rules.by_popularity else "nothing"
    if rules.only_known:
        facts["temporal"] = _warm_and_cold(sequences, item_counts)
    return facts


def _trained_on(data: InteractionData) -> str:
    """What the data let a training see; those of `prepare` never more than the training part."""
    for name, target in (("all events", data.test_target), ("training and validation events", data.validation_target)):
        if ((target >= 0) & (data.train_end > target)).any():
            return name
    return "training events"


def _warm_and_cold(sequences: EvaluationSequences, item_counts: np.ndarray) -> dict[str, Any]:
    """Who and what was known before the cut. A user is known by an event, an item by one that training saw."""
    data, is_known = sequences.data, item_counts[FIRST_ITEM_TOKEN:] > 0
    split = data.metadata["report"]["split"]
    return {
        "trained_until": split["validation_from"],
        "period_from": split[f"{sequences.split}_from"],
        "users_evaluated": len(sequences),
        "users_evaluated_without_training": int((data.train_end[sequences.users] == 0).sum()),
        "users_not_evaluated": data.num_users - len(sequences),
        "warm_items": int(is_known.sum()),
        "cold_items": int((~is_known).sum()),
    }


def targets_checksum(sequences: EvaluationSequences, item_counts: np.ndarray) -> str:
    r"""
    A checksum of who is evaluated on what, the same however users and items are named and numbered.

    It is made of the length of each history and of the training events of its target: another order of events with equal
    times gives other targets and so another checksum.

    Args:
        sequences ([`EvaluationSequences`]): Histories and targets of one split.
        item_counts (`np.ndarray` of shape `(vocab_size,)`): Training events of each token.

    Returns:
        `str`: eight hexadecimal digits.
    """
    data, positions = sequences.data, sequences.target_positions
    targets = data.events[data.offsets[sequences.users] + positions].astype(np.int64) + FIRST_ITEM_TOKEN
    pairs = np.stack([positions, item_counts[targets]], axis=1).astype("<i8")  # (num_users, 2)
    return f"{zlib.crc32(pairs[np.lexsort(pairs.T)].tobytes()):08x}"


def read_metrics(path: str | Path) -> dict[str, Any]:
    r"""
    The content of a metrics file.

    Args:
        path (`str` or `Path`): What `hf-bert4rec evaluate --output_file` wrote.

    Returns:
        `dict`: see [`compare`].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no metrics file.
    """
    hint = "give a file that evaluate --output_file wrote"
    try:
        metrics = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}; {hint}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); {hint}.") from error
    if not isinstance(metrics, dict) or not {"protocol", "split", "num_users"} <= metrics.keys():
        raise ValueError(f"{path} holds no metrics (no protocol, split and num_users); {hint}.")
    return metrics


def comparability(one: dict[str, Any] | str | Path, other: dict[str, Any] | str | Path) -> list[str]:
    r"""
    Why two figures cannot be compared.

    Args:
        one (`dict` or path): What [`compare`] returned, or its file.
        other (`dict` or path): The same for the other. A fact that it does not state is not compared.

    Returns:
        `list[str]`: one reason each, first what holds for `one`; empty where they can be compared.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file holds no metrics.
    """
    found = [metrics if isinstance(metrics, dict) else read_metrics(metrics) for metrics in (one, other)]
    return list(_reasons(*found))


def _reasons(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for place, metrics in (("first", one), ("second", other)):
        if "conditions" not in metrics:
            yield f"the {place} does not state its conditions: evaluate again"
            return

    def differs(a: Any, b: Any) -> bool:
        return a is not None and b is not None and a != b

    for name in ("protocol", "split"):
        if differs(one.get(name), other.get(name)):
            yield f"{name}: {one[name]} against {other[name]}"
    a, b = one["conditions"], other["conditions"]
    # What a protocol implies is said by its name; the same protocol may be followed with a deviation.
    implied = ("candidates", "seen_items", "cold_targets", "negatives_counted", "seed")
    is_same_protocol = one.get("protocol") == other.get("protocol")
    for name in (*(implied if is_same_protocol else ()), "trained_on", "ties", "tie_order"):
        if differs(a.get(name), b.get(name)):
            yield f"{name.replace('_', ' ')}: {a[name]} against {b[name]}"
    drawn = [metrics.get("mean_negatives") for metrics in (one, other)]
    if is_same_protocol and differs(*drawn):
        yield f"items drawn for a user, on average: {drawn[0]:.1f} against {drawn[1]:.1f}"
    sizes = list(_differing_data(a.get("data", {}), b.get("data", {})))
    yield from sizes
    if sizes or one.get("split") != other.get("split"):
        return  # other events, so of course other targets
    if differs(a.get("targets"), b.get("targets")):
        yield "targets: as many users, items and events, but other targets (events of equal time in another order?)"
    shares = [metrics.get("cold_targets") for metrics in (one, other)]
    if differs(*(None if share is None else round(share, COLD_SHARE_DIGITS) for share in shares)):
        yield f"cold targets: {shares[0]:.2%} against {shares[1]:.2%}"


def _differing_data(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    """Sizes and split that both state and that differ; behind a size the filters that may explain it."""
    if None not in (one.get("split"), other.get("split")) and one["split"] != other["split"]:
        yield f"data split by: {one['split']} against {other['split']}"
    names = [name for name in DATA_OPTIONS if name in one and name in other and one[name] != other[name]]
    filters = "".join(f", {name} {one[name]} against {other[name]}" for name in names)
    for name in ("num_users", "num_items", "num_events"):
        if None not in (one.get(name), other.get(name)) and one[name] != other[name]:
            yield f"{name.removeprefix('num_')}: {one[name]:,} against {other[name]:,}{filters}"
            filters = ""
