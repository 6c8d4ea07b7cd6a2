"""`hf-bert4rec evaluate`: metrics of a trained model beside the baselines and the published figures."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..comparison import evaluate_run
from ..known_results import known_beside
from ..metrics_text import evaluation_text, known_table
from ..plots import WITHOUT_MATPLOTLIB, has_matplotlib, plot_metrics
from ..protocols import PROTOCOLS
from ..published_results import DATASETS
from ..whole_file import check_output_file, whole_folder, write_whole_file

USAGE = "RUN --data DATA"
HELP = "Metrics of a trained model beside popularity and Markov counts."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model, or of an export of it")
    parser.add_argument("--data", metavar="DATA", required=True, help="prepared data")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="which target (default: test)")
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        default="full-catalogue",
        help="which items compete (default: %(default)s); "
        + "; ".join(f"{name}: {protocol.description}" for name, protocol in PROTOCOLS.items()),
    )
    parser.add_argument(
        "--dataset", choices=tuple(DATASETS), help="whose published figures to show (default: recognised by its sizes)"
    )
    parser.add_argument("--output_file", help="JSON with all metrics and their 95%% intervals")
    parser.add_argument(
        "--coverage",
        action="store_true",
        help="also count how much of the catalogue is in anybody's first k; takes up to two thirds of the time again",
    )
    parser.add_argument(
        "--plots",
        metavar="DIR",
        help="folder for pictures: metrics against k, recall by popularity of the target and by length of the history, coverage "
        "(counted unless rivals are drawn); needs matplotlib",
    )
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder of pictures"
    )
    parser.add_argument("--batch_size", type=int, default=256, help="users scored at a time (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="fixes drawn negatives and the bootstrap (default: 0)")


def run(
    *,
    dataset: str | None,
    output_file: str | None,
    coverage: bool,
    plots: str | None,
    overwrite: bool,
    **options: Any,
):
    is_first = not int(os.environ.get("RANK", "0"))
    if plots is not None and not has_matplotlib():
        raise ValueError(WITHOUT_MATPLOTLIB)
    if output_file is not None:
        check_output_file(Path(output_file))
    # What draws its rivals has no lists; asked for by name it is refused.
    options["with_coverage"] = coverage or (plots is not None and PROTOCOLS[options["protocol"]].num_negatives is None)
    pictures = whole_folder(Path(plots), overwrite=overwrite) if plots is not None and is_first else nullcontext()
    with pictures as folder:
        result = evaluate_run(**options)
        if folder is not None:
            plot_metrics(result, folder)
        if is_first:  # every process has the whole result
            _report(result, dataset, output_file)


def _report(result: dict[str, Any], dataset: str | None, output_file: str | None):
    print(evaluation_text(result))
    beside = known_beside(result, dataset)
    if beside is not None:
        print(known_table(beside, result), flush=True)
        for warning in beside.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if output_file is not None:
        write_whole_file(Path(output_file), json.dumps(result, indent=2) + "\n")
