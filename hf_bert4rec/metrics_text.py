"""
Metrics as text: scorers side by side, what others published beside them, and what a temporal evaluation left out.
"""

from __future__ import annotations

from typing import Any

from .known_results import KnownBeside
from .protocols import PROTOCOLS
from .published_results import KnownResult

SHOWN = ("ndcg@10", "recall@10", "mrr")


def scorers_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scorers' metrics of an evaluation, or of a group of its `by_popularity`, without the facts beside them."""
    return {name: value for name, value in result.items() if isinstance(value, dict) and "intervals" in value}


def metrics_table(results: dict[str, dict[str, Any]]) -> str:
    """Metrics side by side, one row each, with 95 % intervals where there are some."""
    lines = [f"{'':<14}" + "".join(f"{name:>26}" for name in SHOWN)]
    for scorer, metrics in results.items():
        cells = []
        for name in SHOWN:
            low, high = metrics.get("intervals", {}).get(name, (None, None))
            cells.append(f"{metrics[name]:.4f}" + ("" if low is None else f" [{low:.4f}, {high:.4f}]"))
        lines.append(f"{scorer:<14}" + "".join(f"{cell:>26}" for cell in cells))
        if "first_minus_this" in metrics:
            bounds = [metrics["first_minus_this"][name] for name in SHOWN]
            cells = [f"{low:+.4f} to {high:+.4f}" for low, high in bounds]
            lines.append(f"{'  lead over it':<14}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)


def evaluation_text(result: dict[str, Any]) -> str:
    """An evaluation: what was evaluated, the scorers side by side, and who and what was warm or cold."""
    facts = result["conditions"]
    head = f"{result['protocol']}, {result['split']}, {result['num_users']:,} users, cold targets "
    lines = [f"{head}{result['cold_targets']:.2%}", metrics_table(scorers_of(result))]
    lines += [found] if (found := too_few_negatives(result)) else []
    shares = [
        f"{name} {found['coverage@10']:.1%}" for name, found in scorers_of(result).items() if "coverage@10" in found
    ]
    lines += [f"of the catalogue, in anybody's first 10: {', '.join(shares)}"] if shares else []
    if "temporal" in facts:
        seen = facts["temporal"]
        lines.append(
            f"trained until {seen['trained_until']}, evaluated from {seen['period_from']}: {seen['warm_items']:,} warm items, "
            f"{seen['cold_items']:,} cold; {seen['users_evaluated']:,} users with an event before and one in the period, "
            f"{seen['users_evaluated_without_training']:,} of them not in training; {seen['users_not_evaluated']:,} without"
        )
        warm = {name: value["warm"] for name, value in scorers_of(result).items() if value["warm"]}
        lines += ["warm targets alone:", metrics_table(warm)] if warm else []
    elif facts["data"]["split"] == "global-time":
        lines.append("the data are cut in time: --protocol temporal lists only what was known by then")
    return "\n".join(lines)


def too_few_negatives(result: dict[str, Any]) -> str:
    """What to know of figures against fewer items than the protocol draws, as a sentence; nothing where all could be drawn."""
    wanted = PROTOCOLS[result["protocol"]].num_negatives
    fewest = result.get("fewest_negatives")  # older files do not tell
    if wanted is None or fewest is None or fewest >= wanted:
        return ""
    return (
        f"Not every user has {wanted} such items: there were {fewest} at least and {result['mean_negatives']:.1f} on average, "
        "against which a target is found more easily."
    )


def known_table(beside: KnownBeside, result: dict[str, Any]) -> str:
    """The comparable rows of others and this model's, the best first."""
    if not beside.comparable:
        return f"Nothing that is known for {beside.dataset.title} is comparable."
    own = {name: result["model"][name] for name in ("ndcg@10", "recall@10")}
    rows = [(row.metrics["ndcg@10"], _line(row)) for row in beside.comparable]
    rows.append((own["ndcg@10"], f"{'-> this model':<52}{own['ndcg@10']:>17.4f}{own['recall@10']:>17.4f}"))
    lines = [f"Known for {beside.dataset.title}:", f"{'':<52}{'ndcg@10':>17}{'recall@10':>17}"]
    return "\n".join(lines + [line for _, line in sorted(rows, key=lambda pair: -pair[0])])


def _line(row: KnownResult) -> str:
    cells = []
    for name in ("ndcg@10", "recall@10"):
        width = (row.tolerance or {}).get(name)
        # a tolerance below the last digit means the value itself
        cells.append(f"{row.metrics[name]:.4f}" + (f" ± {width:.4f}" if width and width >= 0.001 else ""))
    return f"{row.model:<52}" + "".join(f"{cell:>17}" for cell in cells) + f"  {row.source}"
