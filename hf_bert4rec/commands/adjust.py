"""`hf-bert4rec adjust`: a trained model that recommends popular items less."""

from __future__ import annotations

import argparse

from ..logit_adjustment import adjust_run

USAGE = "RUN --data DATA --tau TAU --output_dir ADJUSTED"
HELP = (
    "Make a model that recommends popular items less: a share of the logarithm of their events comes off their scores."
)


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    parser.add_argument("--data", required=True, metavar="DATA", help="prepared data that it was trained on")
    parser.add_argument(
        "--tau", required=True, type=float, help="share of the logarithm, above 0; 1 takes all of it, .25 costs little"
    )
    parser.add_argument("--output_dir", required=True, metavar="ADJUSTED", help="folder of the model")
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder"
    )


def run(run: str, data: str, output_dir: str, tau: float, overwrite: bool):
    print(f"Model written to {adjust_run(run, data, output_dir, tau=tau, overwrite=overwrite)}")
