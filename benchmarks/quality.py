"""
Whether bf16 costs quality: short trainings in both precisions with the same seeds, NDCG@10 of the test targets.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from .datasets import DATASETS
from .results import Row
from .runner import Options, command_of, launch, prepared_task, provenance
from .systems import SYSTEMS, python_of
from .table import markdown_table

PRECISIONS = ("ours", "ours-bf16")
METRIC = "ndcg@10"


def train_and_rank(dataset: str, name: str, seed: int, epochs: int, options: Options) -> dict[str, Any]:
    r"""
    One training with the package's defaults, and its metrics on the test targets.

    Args:
        dataset (`str`): A key of `DATASETS`.
        name (`str`): `"ours"` or `"ours-bf16"`.
        seed (`int`): Seed of weights, masks, windows and order.
        epochs (`int`): Passes over all users.
        options ([`Options`]): Of the run.

    Returns:
        `dict`: a row with `metrics`.

    Raises:
        LauncherFailed: If it does not come to its end; in one line.
    """
    variant = {"bf16": SYSTEMS[name].variant["bf16"], "seed": seed, "epochs": epochs}
    task = prepared_task(dataset, options, None, variant)
    log = options.peers_dir.absolute() / "logs" / f"{dataset}-{name}-quality-{seed}.txt"
    found = launch(python_of(SYSTEMS[name], options.peers_dir), "quality", options, log, task)
    common = {"datasets": dataset, "epochs": epochs, "seeds": seed, "threads": options.threads}
    row = provenance(dataset=dataset, system=name, seed=seed, epochs=epochs, threads=options.threads)
    return {**row, "command": command_of("quality", **common), **found}


def quality_report(rows: Iterable[Row]) -> str:
    """The whole of `quality.md`: per seed whether bf16 lies in float32's interval, and the means over seeds."""
    parts = [
        "# Quality of bf16 beside float32",
        f"{METRIC} of the test targets, full catalogue, seen items forbidden.",
    ]
    good = [row for row in rows if "error" not in row]
    for dataset in [name for name in DATASETS if any(row["dataset"] == name for row in good)]:
        found = {(row["system"], row["seed"]): row for row in good if row["dataset"] == dataset}
        seeds = sorted(seed for name, seed in found if name == "ours" and ("ours-bf16", seed) in found)
        parts.append(f"## {DATASETS[dataset].title}")
        header = ("seed", "epochs", "float32 [95 %]", "bf16", "inside", "CPU s, float32", "CPU s, bf16")
        pairs = [(found["ours", seed], found["ours-bf16", seed]) for seed in seeds]
        parts.append(markdown_table(header, [_line(full, half) for full, half in pairs]))
        if pairs:
            full, half = (statistics.mean(pair[place]["metrics"][METRIC] for pair in pairs) for place in (0, 1))
            parts.append(f"Mean over {len(pairs)} seeds: float32 {full:.4f}, bf16 {half:.4f}.")
        # One command trains both precisions.
        origins = dict.fromkeys(
            f"- `{row['command']}`: {row['date']}, commit {row['commit']}" for row in found.values()
        )
        parts.append("\n".join(origins))
    return "\n\n".join(parts) + "\n"


def _line(full: Row, half: Row) -> list[str]:
    low, high = full["metrics"]["intervals"][METRIC]
    value = half["metrics"][METRIC]
    return [
        str(full["seed"]),
        str(full["epochs"]),
        f"{full['metrics'][METRIC]:.4f} [{low:.4f}, {high:.4f}]",
        f"{value:.4f}",
        "yes" if low <= value <= high else "no",
        f"{full['cpu_seconds']:.4g}",
        f"{half['cpu_seconds']:.4g}",
    ]
