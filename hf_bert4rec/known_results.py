"""
The figures that may stand beside one's own: published ones for the data set that an evaluation is recognised to use, and,
for each that may not, the reason.

*Source:* the rows of `published_results.py`.

*Differences:* what a row does not state is not compared: a row without a reason is comparable as far as is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .protocols import comparability, read_metrics
from .published_results import DATASETS, KNOWN_RESULTS, KnownDataset, KnownResult


@dataclass(frozen=True)
class KnownBeside:
    r"""
    What is known of a data set, beside the figures of one evaluation.

    Args:
        dataset ([`KnownDataset`]): The data set.
        comparable (list of [`KnownResult`]): Rows that may stand beside the figures, the best first.
        warnings (`list[str]`): One line for each baseline that has not its known value, and one for each group of rows
            that may not be compared, with the reason.
    """

    dataset: KnownDataset
    comparable: list[KnownResult]
    warnings: list[str]


def known_beside(metrics: dict[str, Any] | str | Path, dataset: str | None = None) -> KnownBeside | None:
    r"""
    The known results for the data set of an evaluation.

    Args:
        metrics (`dict` or path): What [`compare`] returned, or its file.
        dataset (`str`, *optional*): A key of [`published_results.DATASETS`]; by default it is recognised by the numbers of
            users, items and events.

    Returns:
        [`KnownBeside`], or `None` where the data set is not recognised.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it holds no metrics, or if no such data set is known.

    Example:
        >>> sizes = {"num_users": 6040, "num_items": 3416, "num_events": 999_611}
        >>> facts = {"protocol": "full-catalogue", "split": "test", "num_users": 6040, "conditions": {"data": sizes}}
        >>> known_beside(facts).comparable[0].model
        'BERT4Rec, recipe default'
    """
    found = metrics if isinstance(metrics, dict) else read_metrics(metrics)
    dataset = _recognised(found) if dataset is None else dataset
    if dataset is None:
        return None
    if dataset not in DATASETS:
        raise ValueError(f"No results are known for {dataset!r}; choose one of {', '.join(DATASETS)}.")
    comparable: list[KnownResult] = []
    others: dict[str, list[KnownResult]] = {}
    for row in KNOWN_RESULTS:
        # of our own baselines those under this protocol are enough
        if row.dataset != dataset or (row.scorer is not None and row.protocol != found["protocol"]):
            continue
        reason = "; ".join(comparability(found, row.as_metrics()))
        (others.setdefault(reason, []) if reason else comparable).append(row)
    comparable.sort(key=lambda row: -row.metrics["ndcg@10"])
    warnings = [f"not comparable: {_named(rows)}: {reason}" for reason, rows in others.items()]
    return KnownBeside(DATASETS[dataset], comparable, _deviations(found, comparable) + warnings)


def _recognised(metrics: dict[str, Any]) -> str | None:
    data = metrics.get("conditions", {}).get("data", {})
    sizes = tuple(data.get(name) for name in ("num_users", "num_items", "num_events"))
    return next((name for name, known in DATASETS.items() if sizes in known.sizes), None)


def _named(rows: list[KnownResult]) -> str:
    """Whose figures these are; of many the first three."""
    names = [f"{row.model} ({row.source.split(':')[0]})" for row in rows]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _deviations(metrics: dict[str, Any], rows: list[KnownResult]) -> list[str]:
    """A baseline has one value on given events: with another one the events are not those of the known data set."""
    return [
        f"{row.scorer} has {name} {metrics[row.scorer][name]:.4f}, {row.metrics[name]:.4f} is known: the events differ from "
        "those of the known data set"
        for row in rows
        if row.scorer is not None and row.scorer in metrics
        for name, tolerance in (row.tolerance or {}).items()
        if abs(metrics[row.scorer][name] - row.metrics[name]) > tolerance
    ]
