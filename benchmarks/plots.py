"""
The figures of a data set as bars. Needs matplotlib, which the extra `plots` installs.
"""

from __future__ import annotations

from pathlib import Path

from .datasets import DATASETS
from .ratios import memory_of
from .results import Row
from .systems import SYSTEMS
from .table import processor_of

PANELS = (
    ("training, CPU seconds per pass", lambda row: row["cpu_seconds_per_pass"]),
    ("peak memory above import, MB", lambda row: memory_of(row) / 1e6),
    ("top-10, users per CPU second", lambda row: row["users_per_cpu_second"]),
)


def plot_speed(rows: list[Row], folder: Path) -> list[Path]:
    r"""
    One picture for each data set, machine and number of threads.

    Args:
        rows (list of `dict`): Rows of figures.
        folder (`Path`): Where the pictures go.

    Returns:
        list of `Path`: the pictures.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'hf_bert4rec[plots]'") from error
    groups: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        if "error" not in row:
            group = (row["dataset"], row["threads"], processor_of(row), row["hardware"]["cpu_count"])
            groups.setdefault(group, {})[row["system"]] = row
    written = []
    for number, ((dataset, threads, cpu, _), found) in enumerate(groups.items()):
        names = [name for name in SYSTEMS if name in found][::-1]
        figure = Figure(figsize=(13, 1.2 + 0.4 * len(names)), layout="constrained")
        figure.suptitle(f"{DATASETS[dataset].title}, {cpu}, threads: {threads}")
        for axes, (title, value) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
            colours = ["tab:orange" if name.startswith("ours") else "tab:gray" for name in names]
            values = [value(found[name]) for name in names]
            bars = axes.barh([SYSTEMS[name].title for name in names], values, color=colours)
            axes.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values], padding=2)
            axes.set(title=title, xticks=[])
            axes.margins(x=0.2)
        same = sum(earlier[0] == dataset for earlier in list(groups)[:number])
        path = folder / (f"speed-{dataset}.png" if not same else f"speed-{dataset}-{same + 1}.png")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        written.append(path)
    return written
