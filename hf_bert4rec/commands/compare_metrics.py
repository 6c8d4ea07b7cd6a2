"""`hf-bert4rec compare-metrics`: two evaluations side by side, where that means something."""

from __future__ import annotations

import argparse

from ..metrics_text import metrics_table
from ..protocols import comparability, read_metrics

USAGE = "METRICS METRICS"
HELP = "Metrics of two evaluations side by side, or why they cannot be compared (then the exit code is 1)."


def add_arguments(parser: argparse.ArgumentParser):
    for name in ("one", "other"):
        parser.add_argument(name, metavar="METRICS", help="file that `evaluate --output_file` wrote")


def run(one: str, other: str) -> int:
    found = {path: read_metrics(path) for path in (one, other)}
    reasons = comparability(found[one], found[other])
    for reason in reasons:
        print(f"not comparable: {reason}")
    if not reasons:
        print(metrics_table({path: metrics["model"] for path, metrics in found.items()}))
    return int(bool(reasons))
