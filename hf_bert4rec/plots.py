"""
Pictures of a run: its validation curve, and recall by the popularity of the target. Needs matplotlib, which the extra
`plots` installs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .metrics_text import scorers_of

SIZE = (8, 3.6)


def plot_validation(log_history: Sequence[dict[str, Any]], best_step: int | None, path: Path) -> None:
    r"""
    Loss and NDCG@10 over the epochs of a run.

    Args:
        log_history (sequence of `dict`): As `Trainer` keeps it.
        best_step (`int`, *optional*): Step of the weights that were kept.
        path (`Path`): The picture, PNG.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure = _figure()
    loss, quality = figure.subplots(1, 2)
    for key, name in (("loss", "training"), ("eval_loss", "validation")):
        points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
        if points:
            loss.plot(*zip(*points, strict=True), label=name)
    loss.legend()
    evaluations = [entry for entry in log_history if "eval_ndcg@10" in entry]
    quality.plot(
        [entry["epoch"] for entry in evaluations], [entry["eval_ndcg@10"] for entry in evaluations], marker="."
    )
    for entry in evaluations:
        if entry["step"] == best_step:
            quality.plot(entry["epoch"], entry["eval_ndcg@10"], "o", color="tab:orange", label="kept")
            quality.legend()
    loss.set(xlabel="epoch", ylabel="loss")
    quality.set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))
    _save(figure, path)


def plot_popularity(groups: Sequence[dict[str, Any]], path: Path) -> None:
    r"""
    Recall@10 of each scorer by the number of training events of the target, with 95 % intervals.

    Args:
        groups (sequence of `dict`): See [`metrics.metrics_by_popularity`].
        path (`Path`): The picture, PNG.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure = _figure()
    axes = figure.subplots()
    names = list(scorers_of(groups[0]))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        values = [group[name]["recall@10"] for group in groups]
        bounds = [group[name]["intervals"]["recall@10"] for group in groups]
        # A bootstrap interval may leave out the value itself where all users of a small group are alike.
        below = [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)]
        above = [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)]
        places = [group - 0.4 + width * (number + 0.5) for group in range(len(groups))]
        axes.bar(places, values, width, label=name, yerr=[below, above], error_kw={"linewidth": 0.8})
    labels = [f"{group_name(group)}\n{group['num_users']:,} users" for group in groups]
    axes.set_xticks(range(len(groups)), labels, fontsize=8)
    axes.set(xlabel="training events of the target", ylabel="recall@10")
    axes.legend()
    _save(figure, path)


def group_name(group: dict[str, Any]) -> str:
    """The number of training events of a group's targets: `0` or `3–9`."""
    fewest, most = group["training_events"]
    return f"{fewest:,}" if fewest == most else f"{fewest:,}–{most:,}"


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'hf_bert4rec[plots]'") from error
    return Figure(figsize=SIZE, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    # Without the version of matplotlib the same figures make the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
