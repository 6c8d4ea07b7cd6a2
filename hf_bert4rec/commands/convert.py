"""`hf-bert4rec convert`: a checkpoint of another project in, a folder of ours out."""

from __future__ import annotations

import argparse

from ..configuration_bert4rec import FIRST_ITEM_TOKEN
from ..convert import convert

USAGE = "CHECKPOINT --output_dir RUN"
HELP = "Read a model that another project trained, where its scores can be equal."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="file that the other project's training wrote")
    parser.add_argument("--output_dir", required=True, metavar="RUN", help="folder of the model")
    parser.add_argument(
        "--items",
        metavar="FILE",
        help="raw item ids in the other project's token order: one a line, a JSON list, or what that project saved (default: "
        "from the checkpoint or a file beside it)",
    )
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder"
    )


def run(checkpoint: str, output_dir: str, items: str | None, overwrite: bool):
    found = convert(checkpoint, output_dir, items=items, overwrite=overwrite)
    config = found.config
    print(
        f"{found.source}: {config.vocab_size - FIRST_ITEM_TOKEN:,} items, {config.num_hidden_layers} layers, hidden size "
        f"{config.hidden_size}, window {config.max_position_embeddings}"
    )
    print(f"Model written to {output_dir}")
