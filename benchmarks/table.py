"""
Rows of figures as Markdown: what each system took, what was to be reached, and the command behind every row.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from .arithmetic import FORMULA
from .datasets import DATASETS
from .ratios import TARGETS, memory_of, ratios, useful_share
from .results import Row
from .systems import SYSTEMS

COLUMNS = (
    "system",
    "training, CPU s per pass",
    "wall s",
    "steps timed",
    "top-10, users per CPU s",
    "peak memory above import, MB",
    "of it in training, MB",
    "float32 / bf16 GFLOP/s",
    "useful share of float32 rate",
)


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """The first column to the left, the others to the right."""
    header = list(header)
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def speed_report(rows: Iterable[Row]) -> str:
    """The whole of `speed.md`."""
    parts = [
        "# Speed and memory",
        f"Useful arithmetic of a training pass, operations: {FORMULA}. See `arithmetic.py`.",
    ]
    for machine, of_machine in _grouped(rows, _machine):
        parts.append(f"## {machine}")
        for dataset, found in _grouped(of_machine, lambda row: row["dataset"]):
            parts += _dataset_report(dataset, {row["system"]: row for row in found})
    return "\n\n".join(parts) + "\n"


def _grouped(rows: Iterable[Row], key):
    return [(value, list(group)) for value, group in groupby(sorted(rows, key=key), key=key)]


def _machine(row: Row) -> str:
    machine, threads = row["hardware"], row["threads"]
    plural = "" if threads == 1 else "s"
    cpus = f"{processor_of(row)}, {machine['cpu_count']} CPUs"
    return f"{cpus}, {machine['memory_gib']} GiB, {threads} thread{plural}"


def processor_of(row: Row) -> str:
    """The processor, and its vector instructions where the row tells: bfloat16 needs more than AVX2."""
    instructions = row["hardware"].get("instructions")
    return row["hardware"]["cpu"] + (f" ({instructions})" if instructions else "")


def _dataset_report(dataset: str, rows: dict[str, Row]) -> list[str]:
    measured = [name for name in SYSTEMS if name in rows]
    notes = [
        f"- {SYSTEMS[name].title} failed: {rows[name]['error']}" for name in measured if "error" in rows[name]
    ] + [
        f"- {SYSTEMS[name].title} cannot leave out seen items: its top-10 does less than the others'."
        for name in measured
        if not rows[name].get("filters_seen", True)
    ]
    good = [name for name in measured if "error" not in rows[name]]
    parts = [f"### {DATASETS[dataset].title}, N = {DATASETS[dataset].max_length}"]
    if good:
        parts.append(markdown_table(COLUMNS, [_figures(name, rows[name]) for name in good]))
    if notes:
        parts.append("\n".join(notes))
    parts.append(_ratio_table(dataset, rows))
    parts.append("\n".join(_origin(rows[name]) for name in good))
    return parts


def _figures(name: str, row: Row) -> list[str]:
    rates = row["matrix_rate"]
    return [
        SYSTEMS[name].title,
        f"{row['cpu_seconds_per_pass']:.4g}",
        f"{row['wall_seconds_per_pass']:.4g}",
        str(len(row["step_cpu_seconds"])),
        f"{row['users_per_cpu_second']:,.0f}",
        f"{memory_of(row) / 1e6:,.0f}",
        f"{(row['peak_training_bytes'] - row['import_bytes']) / 1e6:,.0f}",
        f"{rates['float32'] / 1e9:.0f} / {rates['bfloat16'] / 1e9:.0f}",
        f"{useful_share(row):.1%}",
    ]


def _ratio_table(dataset: str, rows: dict[str, Row]) -> str:
    """What was to be reached, for each variant of ours; the first that has a figure is held to the target."""
    variants = [name for name in SYSTEMS if name.startswith("ours") and "error" not in rows.get(name, {"error": ""})]
    found = {name: ratios(rows, name) for name in variants}
    lines = []
    for name, target in TARGETS.items():
        values = [found[variant][name] for variant in variants]
        judged = next((value for value in values if value is not None), None)
        goal = target.goals.get(dataset)
        sign = "at most" if target.at_most else "at least"
        cells = ["-" if value is None else f"{value[0]:.2f}" for value in values]
        against, verdict = ("-", "not measured") if judged is None else (judged[1], target.verdict(dataset, judged[0]))
        lines.append([target.name, "-" if goal is None else f"{sign} {goal:g}", *cells, against, verdict])
    return markdown_table(("ours against the others", "to reach", *variants, "held against", ""), lines)


def _origin(row: Row) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
    return f"- `{row['command']}`: {row['date']}, commit {row['commit']}, {versions}"
