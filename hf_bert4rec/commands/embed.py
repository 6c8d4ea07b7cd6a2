"""`hf-bert4rec embed`: vectors of items and users for other models."""

from __future__ import annotations

import argparse

from ..comparison import check_vocabulary
from ..embedding import write_vectors
from ..interactions import load_data
from ..run_folder import load_run

USAGE = "RUN --output_dir VECTORS"
HELP = "Write item and user vectors to Parquet; their product plus bias is the score."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    parser.add_argument("--data", metavar="DATA", help="prepared data whose users are embedded; without it items only")
    parser.add_argument("--output_dir", required=True, help="folder for item_vectors.parquet and user_vectors.parquet")
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder"
    )


def run(run: str, data: str | None, output_dir: str, overwrite: bool):
    model, tokenizer = load_run(run)
    loaded = None
    if data is not None:
        loaded = load_data(data)
        check_vocabulary(tokenizer, loaded)
    for path in write_vectors(model, tokenizer, output_dir, data=loaded, overwrite=overwrite):
        print(f"Written {path}")
