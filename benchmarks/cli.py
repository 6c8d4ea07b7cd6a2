"""
The command line of the benchmark: `speed`, `quality`, and `table`, which draws tables and plots from figures that are there.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .datasets import DATASETS
from .plots import plot_speed
from .quality import PRECISIONS, quality_report, train_and_rank
from .results import Results
from .runner import LauncherFailed, Options, measure, provenance
from .systems import SYSTEMS
from .table import speed_report

FOLDER = Path(__file__).resolve().parent / "results"
REAL_DATASETS = [name for name, dataset in DATASETS.items() if dataset.file]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    speed = modes.add_parser("speed", help="time and memory of training and recommending, ours beside the others'")
    quality = modes.add_parser("quality", help="NDCG of bf16 beside float32 in short trainings")
    table = modes.add_parser("table", help="tables and plots anew from the figures in --output_dir")
    for mode in (speed, quality):
        mode.add_argument("--data", type=Path, default=os.environ.get("BERT4REC_DATA"), help="default: $BERT4REC_DATA")
        mode.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=REAL_DATASETS)
        mode.add_argument("--threads", type=int, default=1)
        text = "environments of the peers, converted logs, what launchers print (default: %(default)s)"
        mode.add_argument("--peers_dir", type=Path, default=Path(".peers"), help=text)
        mode.add_argument("--fresh", action="store_true", help="forget what a stopped run has left")
    for mode in (speed, quality, table):
        mode.add_argument("--output_dir", type=Path, default=FOLDER, help="default: benchmarks/results")
    speed.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    text = "training steps timed; by default a whole pass of ours, 12 of the others, whose batches are all alike"
    speed.add_argument("--steps", type=int, help=text)
    speed.add_argument("--users", type=int, default=6040, help="users recommended for (default: %(default)s)")
    quality.add_argument("--epochs", type=int, default=10)
    quality.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 where something failed; what did not is written all the same."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    for name in ("threads", "steps", "users", "epochs"):
        if getattr(given, name, None) is not None and getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; give at least 1")
    if given.mode == "table":
        for kind in ("speed", "quality"):
            if rows := Results(given.output_dir, kind, {}).published():
                _write_report(kind, rows, given.output_dir)
        return 0
    return _run(given)


def _run(given: argparse.Namespace) -> int:
    settings = {name: value for name, value in vars(given).items() if name not in ("fresh", "output_dir")}
    results = Results(given.output_dir, given.mode, settings, given.fresh)
    for names, make_row in _jobs(given):
        label = " ".join(map(str, names.values()))
        if results.find(**names):
            print(f"{label}: measured before the stop", flush=True)
            continue
        try:
            row = make_row()
            print(f"{label}: {_summary(row)}", flush=True)
        except (LauncherFailed, FileNotFoundError, ValueError) as error:
            row = provenance(**names, threads=given.threads) | {"error": str(error)}
            print(f"{label} failed: {error}", file=sys.stderr, flush=True)
        results.add(row)
    _write_report(given.mode, results.finish(), given.output_dir)
    return int(any("error" in row for row in results.rows))


def _jobs(given: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What names each row, and what makes it."""
    if given.mode == "speed":
        options = Options(given.data, given.peers_dir, given.threads, given.steps, given.users)
        for dataset, name in itertools.product(given.datasets, given.systems):
            yield {"dataset": dataset, "system": name}, partial(measure, dataset, name, options)
    else:
        options = Options(given.data, given.peers_dir, given.threads)
        for dataset, seed, name in itertools.product(given.datasets, given.seeds, PRECISIONS):
            names = {"dataset": dataset, "system": name, "seed": seed}
            yield names, partial(train_and_rank, dataset, name, seed, given.epochs, options)


def _summary(row: dict) -> str:
    if "metrics" in row:
        return f"NDCG@10 {row['metrics']['ndcg@10']:.4f}"
    memory = (row["peak_bytes"] - row["import_bytes"]) / 1e6
    seconds, users = row["cpu_seconds_per_pass"], row["users_per_cpu_second"]
    return f"{seconds:.4g} CPU s per pass, {users:,.0f} users/s, {memory:,.0f} MB above import"


def _write_report(kind: str, rows: list[dict], folder: Path):
    report = speed_report(rows) if kind == "speed" else quality_report(rows)
    (folder / f"{kind}.md").write_text(report)
    written = [folder / f"{kind}.md"]
    if kind == "speed":
        try:
            written += plot_speed(rows, folder)
        except ImportError as error:
            print(error, file=sys.stderr)
    print("written:", *written)
