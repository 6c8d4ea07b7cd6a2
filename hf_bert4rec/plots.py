"""
Pictures of a run and of its metrics. They need matplotlib, which the extra `plots` installs.

*Source:* blue, vermilion and green as in Okabe & Ito, "Color Universal Design" (2008), darkened.

*Differences:* none follows the theme of its reader. A PNG cannot know the page around it, and of the colours that hold on white
and on a dark page alike no three are also told apart in grey. So each brings its own page, opaque white with dark text, which
is legible on either and in print; scorers differ in lightness, line and marker besides colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from .metrics_text import scorers_of

SIZE = (8, 3.6)  # inches
DOTS_PER_INCH = 120
PAGE, TEXT, GRID = "#ffffff", "#1a1a1a", "#d0d0d0"
# One for each scorer, in their order: colour, line, marker.
LOOKS = (
    ("#00456e", "-", "o"),
    ("#949494", "--", "s"),
    ("#b34700", "-.", "^"),
    ("#006b4f", ":", "D"),
    ("#7a3b68", (0, (5, 1, 1, 1, 1, 1)), "v"),
)
STYLE = {
    "figure.facecolor": PAGE,
    "savefig.facecolor": PAGE,
    "axes.facecolor": PAGE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), TEXT),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.handlelength": 3.5,  # long enough to tell a dashed line from a dotted one
}
WITHOUT_MATPLOTLIB = "Plots need matplotlib: pip install 'hf_bert4rec[plots]'"
# Breakdowns of a metrics file: name of the picture, edges of a group, and what they count.
BREAKDOWNS = {
    "by_popularity": ("popularity", "training_events", "training events of the target"),
    "by_history_length": ("history", "history_events", "events in the history"),
}


def has_matplotlib() -> bool:
    """Whether pictures can be drawn here; `WITHOUT_MATPLOTLIB` says what to do where not."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def plot_run(
    log_history: Sequence[dict[str, Any]], best_step: int | None, folder: Path, prefix: str = ""
) -> dict[str, str]:
    r"""
    Loss and validation NDCG@10 over the epochs of a run.

    Args:
        log_history (sequence of `dict`): As `Trainer` keeps it.
        best_step (`int`, *optional*): Step of the weights that were kept.
        folder (`Path`): Where the picture goes.
        prefix (`str`, *optional*, defaults to `""`): What its file name begins with.

    Returns:
        `dict[str, str]`: file name of the picture `validation`; empty where nothing was logged.

    Raises:
        ImportError: If matplotlib is missing.
    """
    evaluations = [entry for entry in log_history if "eval_ndcg@10" in entry]
    losses = {
        name: [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
        for key, name in (("loss", "training"), ("eval_loss", "validation"))
    }
    losses = {name: points for name, points in losses.items() if points}
    if not losses:
        return {}
    with _picture(folder / f"{prefix}validation.png") as figure:
        loss, *quality = figure.subplots(1, 2 if evaluations else 1, squeeze=False)[0]
        for (name, points), (colour, line, _) in zip(losses.items(), (LOOKS[0], LOOKS[2]), strict=False):
            loss.plot(*zip(*points, strict=True), label=name, color=colour, linestyle=line, marker=".")
        loss.set(xlabel="epoch", ylabel="loss")
        loss.legend()
        for axes in quality:
            _plot_validation(axes, evaluations, best_step)
    return {"validation": f"{prefix}validation.png"}


def _plot_validation(axes: Any, evaluations: list[dict[str, Any]], best_step: int | None):
    points = [(entry["epoch"], entry["eval_ndcg@10"]) for entry in evaluations]
    axes.plot(*zip(*points, strict=True), color=LOOKS[0][0], marker=".")
    for entry in evaluations:
        if entry["step"] == best_step:
            ring = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2, "clip_on": False}
            axes.plot(*points[evaluations.index(entry)], "o", color=LOOKS[2][0], label="kept", **ring)
            axes.legend()
    axes.set(xlabel="epoch", ylabel="validation NDCG@10", ylim=(0, None))


def plot_metrics(metrics: dict[str, Any], folder: Path, prefix: str = "") -> dict[str, str]:
    r"""
    What a metrics file holds: NDCG and Recall against the length of the list, Recall@10 by the popularity of the target and by
    the length of the history, all with 95 % intervals, and coverage of the catalogue. What it lacks has no picture.

    Args:
        metrics (`dict`): See [`compare`].
        folder (`Path`): Where the pictures go.
        prefix (`str`, *optional*, defaults to `""`): What their file names begin with.

    Returns:
        `dict[str, str]`: file names of the pictures `cutoffs`, `popularity`, `history` and `coverage`, as far as there are some.

    Raises:
        ImportError: If matplotlib is missing.
    """
    drawings = {"cutoffs": _plot_cutoffs}
    drawings |= {BREAKDOWNS[key][0]: _plot_groups(key) for key in BREAKDOWNS if metrics.get(key)}
    if has_coverage(metrics):
        drawings["coverage"] = _plot_coverage
    made = {}
    for name, draw in drawings.items():
        made[name] = f"{prefix}{name}.png"
        with _picture(folder / made[name]) as figure:
            title = f"{metrics['protocol']}, {metrics['split']}, {metrics['num_users']:,} users"
            figure.suptitle(title + ("" if name == "coverage" else "; 95 % intervals"), fontsize=10)
            draw(figure, metrics)
            figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LOOKS))
    return made


def has_coverage(metrics: dict[str, Any]) -> bool:
    """Whether a metrics file tells how much of the catalogue its scorers cover."""
    return any(name.startswith("coverage@") for name in metrics["model"])


def group_name(group: dict[str, Any]) -> str:
    """The edges of a group of a breakdown: `0` or `3–9`."""
    fewest, most = next(group[edges] for _, edges, _ in BREAKDOWNS.values() if edges in group)
    return f"{fewest:,}" if fewest == most else f"{fewest:,}–{most:,}"


def cutoffs(metrics: dict[str, Any], name: str) -> list[int]:
    """The k for which the model has the metric `name@k`."""
    return sorted(int(key.split("@")[1]) for key in metrics["model"] if key.startswith(f"{name}@"))


def _plot_cutoffs(figure: Any, metrics: dict[str, Any]):
    for axes, name in zip(figure.subplots(1, 2), ("ndcg", "recall"), strict=True):
        ks = cutoffs(metrics, name)
        for shift, scorer, found, look in _side_by_side(metrics):
            _plot_intervals(axes, [k + 1.5 * shift for k in ks], [(found, f"{name}@{k}") for k in ks], scorer, look)
        title = "NDCG@k" if name == "ndcg" else "Recall@k"
        axes.set(xlabel="k, length of the list", ylabel=title, xticks=ks, ylim=(0, None))


def _plot_groups(key: str) -> Any:
    _, _, counted = BREAKDOWNS[key]

    def draw(figure: Any, metrics: dict[str, Any]):
        axes, groups = figure.subplots(), metrics[key]
        for shift, scorer, _, (colour, _, marker) in _side_by_side(groups[0]):
            places = [number + shift for number in range(len(groups))]
            values = [(group[scorer], "recall@10") for group in groups]
            _plot_intervals(axes, places, values, scorer, (colour, "none", marker))
        names = [f"{group_name(group)}\n{group['num_users']:,} users" for group in groups]
        axes.set_xticks(range(len(groups)), names, fontsize=8)
        axes.set(xlabel=counted, ylabel="Recall@10", ylim=(0, None), xlim=(-0.5, len(groups) - 0.5))
        axes.grid(visible=False, axis="x")

    return draw


def _plot_coverage(figure: Any, metrics: dict[str, Any]):
    axes, ks = figure.subplots(), cutoffs(metrics, "coverage")
    for _, scorer, found, (colour, line, marker) in _side_by_side(metrics):
        shares = [100 * found[f"coverage@{k}"] for k in ks]
        axes.plot(ks, shares, label=scorer, color=colour, linestyle=line, marker=marker)
    axes.set(xlabel="k, length of the list", ylabel="% of the catalogue in anybody's list", xticks=ks, ylim=(0, None))


def _side_by_side(found: dict[str, Any]) -> Iterator[tuple[float, str, dict[str, Any], tuple]]:
    """Each scorer with its metrics and look, and how far it stands to the side so that no interval hides another."""
    scorers = scorers_of(found)
    for number, (look, (name, metrics)) in enumerate(zip(cycle(LOOKS), scorers.items(), strict=False)):
        yield 0.4 * ((number + 0.5) / len(scorers) - 0.5), name, metrics, look


def _plot_intervals(axes: Any, places: list[float], values: list[tuple[dict[str, Any], str]], label: str, look: tuple):
    """Values with their intervals; each is named by the metrics that hold it and its key."""
    heights = [metrics[key] for metrics, key in values]
    bounds = [metrics["intervals"][key] for metrics, key in values]
    # A bootstrap interval may leave out the value itself where all users of a small group are alike.
    below = [max(0.0, height - low) for height, (low, _) in zip(heights, bounds, strict=True)]
    above = [max(0.0, high - height) for height, (_, high) in zip(heights, bounds, strict=True)]
    colour, line, marker = look
    bars = {"capsize": 3, "elinewidth": 1.2, "markersize": 5, "clip_on": False}  # a marker at 0 stands on the axis
    axes.errorbar(places, heights, [below, above], label=label, color=colour, linestyle=line, marker=marker, **bars)


@contextmanager
def _picture(path: Path) -> Iterator[Any]:
    """A figure to draw on, which is saved as PNG; the reader's own settings of matplotlib do not change it."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE, layout="constrained")
        yield figure
        # Without the version of matplotlib the same figures make the same file.
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
