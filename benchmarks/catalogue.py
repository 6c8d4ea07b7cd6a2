"""
Step time and memory of each training loss over the size of the catalogue, and what each loss is worth on a log.

    python -m benchmarks.catalogue scale                    # 10 thousand to 10 million items, a process for each figure
    python -m benchmarks.catalogue quality --data FOLDER    # validation NDCG@10 on Beauty against cost, a short training each
    python -m benchmarks.catalogue table                    # tables and plot anew from the figures
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cli import FOLDER
from .datasets import DATASETS
from .results import Results, Row
from .runner import LauncherFailed, Options, command_of, launch, prepared_task, provenance
from .table import markdown_table, processor_of
from .task import BATCH_SIZE, HIDDEN_SIZE, Task

LOSSES: dict[str, dict[str, Any]] = {
    "softmax": {"training_loss": "softmax"},
    "sampled_softmax": {"training_loss": "sampled_softmax", "num_negatives": 256},
    "sampled_softmax-4096": {"training_loss": "sampled_softmax", "num_negatives": 4096},
    "gbce": {"training_loss": "gbce", "num_negatives": 256, "gbce_t": 0.75},
    "gbce-4096": {"training_loss": "gbce", "num_negatives": 4096, "gbce_t": 0.75},
    "bce": {"training_loss": "bce", "num_negatives": 1, "share_negatives": False},
}
NUM_ITEMS = (10_000, 100_000, 1_000_000, 10_000_000)
# A chunk of 256 rows of scores, weights, gradients and two moments: more than 20 GB.
TOO_LARGE = {("softmax", 10_000_000)}
WINDOW = 50


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.catalogue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    scale = modes.add_parser("scale", help="CPU seconds of a step and peak memory")
    quality = modes.add_parser("quality", help="validation NDCG@10 against cost")
    table = modes.add_parser("table", help="tables and plot anew from the figures in --output_dir")
    for mode in (scale, quality, table):
        mode.add_argument("--output_dir", type=Path, default=FOLDER, help="default: benchmarks/results")
    for mode in (scale, quality):
        mode.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES))
        mode.add_argument("--threads", type=int, default=1)
        mode.add_argument(
            "--peers_dir", type=Path, default=Path(".peers"), help="converted logs (default: %(default)s)"
        )
        mode.add_argument("--fresh", action="store_true", help="forget what a stopped run has left")
    scale.add_argument("--num_items", nargs="+", type=int, default=list(NUM_ITEMS))
    scale.add_argument("--steps", type=int, default=8, help="training steps timed (default: %(default)s)")
    scale.add_argument("--users", type=int, default=32, help="users validated for (default: %(default)s)")
    quality.add_argument("--data", type=Path, default=os.environ.get("BERT4REC_DATA"), help="default: $BERT4REC_DATA")
    quality.add_argument("--dataset", choices=list(DATASETS), default="beauty")
    quality.add_argument("--epochs", type=int, default=20)
    quality.add_argument("--seeds", nargs="+", type=int, default=[0])
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where something failed; what did not is written all the same."""
    given = build_parser().parse_args(arguments)
    if given.mode == "table":
        _write_reports(given.output_dir)
        return 0
    settings = {name: value for name, value in vars(given).items() if name not in ("fresh", "output_dir")}
    results = Results(given.output_dir, f"catalogue-{given.mode}", settings, given.fresh)
    try:
        jobs = list(_scale_jobs(given) if given.mode == "scale" else _quality_jobs(given))
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for names, task, command in jobs:
        if results.find(**names):
            continue
        row = provenance(**names, threads=given.threads) | {"command": command}
        options = Options(None, given.peers_dir, given.threads)
        log = given.peers_dir.absolute() / "logs" / f"catalogue-{'-'.join(map(str, names.values()))}.txt"
        try:
            row |= launch(Path(sys.executable), "catalogue", options, log, task)
        except LauncherFailed as error:
            row |= {"error": str(error)}
        print(*names.values(), row.get("error", "done"), flush=True)
        results.add(row)
    results.finish()
    _write_reports(given.output_dir)
    return int(any("error" in row for row in results.rows))


def _scale_jobs(given: argparse.Namespace):
    """What names each row, the task that makes it, and the command that makes it again."""
    common = {"threads": given.threads, "steps": given.steps, "users": given.users}
    for num_items in given.num_items:
        for loss in given.losses:
            if (loss, num_items) in TOO_LARGE:
                print(f"{num_items:,} items, {loss}: left out, it takes more than 20 GB", flush=True)
                continue
            task = Task("", "", WINDOW, given.threads, given.steps, given.users)
            task.variant.update(num_items=num_items, loss=LOSSES[loss])
            command = _command("scale", num_items=num_items, losses=loss, **common)
            yield {"dataset": num_items, "system": loss}, task, command


def _quality_jobs(given: argparse.Namespace):
    """As [`_scale_jobs`]."""
    options = Options(given.data, given.peers_dir, given.threads)
    common = {"dataset": given.dataset, "threads": given.threads, "epochs": given.epochs}
    for seed in given.seeds:
        for loss in given.losses:
            variant = {"loss": LOSSES[loss], "epochs": given.epochs, "seed": seed}
            task = prepared_task(given.dataset, options, None, variant)
            names = {"dataset": given.dataset, "system": loss, "seed": seed}
            yield names, task, _command("quality", losses=loss, seeds=seed, **common)


def _command(mode: str, **options: Any) -> str:
    return command_of(mode, **options).replace("-m benchmarks ", "-m benchmarks.catalogue ")


def _write_reports(folder: Path):
    written = []
    for kind, report in (("catalogue-scale", scale_report), ("catalogue-quality", quality_report)):
        rows = [row for row in Results(folder, kind, {}).published() if "error" not in row]
        if rows:
            (folder / f"{kind}.md").write_text(report(rows))
            written.append(folder / f"{kind}.md")
        if rows and kind == "catalogue-scale":
            try:
                written.append(plot_scale(rows, folder / f"{kind}.png"))
            except ImportError as error:
                print(error, file=sys.stderr)
    print("written:", *written)


def scale_report(rows: Iterable[Row]) -> str:
    """The whole of `catalogue-scale.md`."""
    rows = sorted(rows, key=lambda row: (row["dataset"], list(LOSSES).index(row["system"])))
    memory = ("peak in training, GB", "peak with validation, GB", "of it import, GB")
    header = ("items, loss", "CPU s per step", *memory, "validation, CPU s per user", "float32 GFLOP/s")
    lines = [
        [
            f"{row['dataset']:,}, {row['system']}",
            f"{statistics.median(row['step_cpu_seconds']):.3g}",
            *(f"{row[name] / 1e9:.2f}" for name in ("peak_training_bytes", "peak_bytes", "import_bytes")),
            f"{row['validation_cpu_seconds_per_user']:.3g}",
            f"{row['matrix_rate']['float32'] / 1e9:.0f}",
        ]
        for row in rows
    ]
    parts = [
        "# Training losses over the size of the catalogue",
        f"Hidden size {HIDDEN_SIZE}, batches of {BATCH_SIZE} full windows of {WINDOW}, median step; resident memory of the "
        "whole process. Validation ranks the whole catalogue inside the stock Trainer.",
        markdown_table(header, lines),
        _origins(rows),
    ]
    return "\n\n".join(parts) + "\n"


def quality_report(rows: Iterable[Row]) -> str:
    """The whole of `catalogue-quality.md`."""
    rows = sorted(rows, key=lambda row: (row["dataset"], list(LOSSES).index(row["system"]), row["seed"]))
    header = ("loss", "data", "seed", "NDCG@10", "Recall@10", "best epoch", "CPU s, all", "CPU s per step", "peak, GB")
    lines = [
        [
            row["system"],
            DATASETS[row["dataset"]].title,
            str(row["seed"]),
            f"{row['metrics']['ndcg@10']:.4f}",
            f"{row['metrics']['recall@10']:.4f}",
            f"{row['best_epoch']:.0f}",
            f"{row['cpu_seconds']:.4g}",
            f"{row['median_step_cpu_seconds']:.3g}",
            f"{row['peak_bytes'] / 1e9:.2f}",
        ]
        for row in rows
    ]
    explained = "Best validation of a short training with the package's defaults but for the loss; full catalogue."
    parts = ["# Quality of each loss against its cost", explained, markdown_table(header, lines), _origins(rows)]
    return "\n\n".join(parts) + "\n"


def _origins(rows: Iterable[Row]) -> str:
    machines = sorted({f"{processor_of(row)}, threads: {row['threads']}" for row in rows})
    lines = [f"- `{row['command']}`: {row['date']}, commit {row['commit']}" for row in rows]
    return "\n".join([f"Measured on {'; '.join(machines)}.", "", *lines])


def plot_scale(rows: list[Row], path: Path) -> Path:
    r"""
    Step time and memory over the number of items, a line for each loss.

    Args:
        rows (list of `dict`): Rows of figures.
        path (`Path`): Where the picture goes.

    Returns:
        `Path`: the picture.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'hf_bert4rec[plots]'") from error
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = (
        ("CPU seconds per step", lambda row: statistics.median(row["step_cpu_seconds"])),
        ("peak memory in training, GB", lambda row: row["peak_training_bytes"] / 1e9),
    )
    for axes, (title, value) in zip(figure.subplots(1, 2), panels, strict=True):
        for loss in LOSSES:
            found = sorted((row["dataset"], value(row)) for row in rows if row["system"] == loss)
            if found:
                axes.plot(*zip(*found, strict=True), marker="o", label=loss)
        axes.set(title=title, xlabel="items", xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


if __name__ == "__main__":
    raise SystemExit(main())
