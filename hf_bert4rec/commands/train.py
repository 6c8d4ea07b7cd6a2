"""`hf-bert4rec train`: a log or prepared data in, a trained model out."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from transformers import TrainingArguments

from ..command_options import COMMON_ARGUMENTS, HelpAll, add_options
from ..configuration_bert4rec import Bert4RecConfig
from ..distillation import TeacherOptions
from ..fine_tuning import StartOptions
from ..interactions import InteractionOptions
from ..recipes import RECIPES
from ..run_arguments import RUN_DEFAULTS
from ..training import SequenceOptions, option_fields, train

USAGE = "LOG_OR_DATA --output_dir RUN"
HELP = "Train on a log or on prepared data."


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("data", metavar="LOG_OR_DATA", help="a log, or the folder that `prepare` wrote")
    parser.add_argument("--output_dir", required=True, help="folder of the run; made as OUTPUT_DIR.partial")
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing run"
    )
    parser.add_argument("--help_all", action=HelpAll, help="list every field of transformers.TrainingArguments too")
    fields = option_fields()
    add_options(parser, Bert4RecConfig, fields[Bert4RecConfig], title="model", defaults=RECIPES["default"])
    add_options(parser, StartOptions, fields[StartOptions], title="start")
    add_options(parser, TeacherOptions, fields[TeacherOptions], title="teacher")
    add_options(parser, SequenceOptions, fields[SequenceOptions], title="sequences", defaults=RECIPES["default"])
    add_options(
        parser,
        TrainingArguments,
        fields[TrainingArguments],
        title="training (every field of transformers.TrainingArguments can be given)",
        defaults=RUN_DEFAULTS | RECIPES["default"],
        shown=COMMON_ARGUMENTS,
    )
    add_options(parser, InteractionOptions, fields[InteractionOptions], title="log (where LOG_OR_DATA is a log)")


def run(data: str, output_dir: str, overwrite: bool, **options: Any):
    folder = train(data, output_dir, overwrite=overwrite, **options)
    if int(os.environ.get("RANK", "0")):
        return  # the first process reports
    record = json.loads((folder / "run.json").read_text())
    if record["best_metric"] is not None:
        metric = record["training_arguments"]["metric_for_best_model"]
        print(f"Best validation {metric}: {record['best_metric']:.4f} at step {record['best_step']}")
    if "start" in record:
        start = record["start"]
        amounts = {words: start[f"num_{words}_items"] for words in ("known", "new", "retired")}
        print(f"Items of {start['model']}: " + ", ".join(f"{number:,} {words}" for words, number in amounts.items()))
    if "teacher" in record:
        print(f"Teacher was {record['teacher']['model']}")
    if record["readings"]:
        reading = json.loads((folder / "config.json").read_text())["reading"]
        found = ", ".join(f"{name} {value:.4f}" for name, value in record["readings"].items())
        print(f"Its reading is {reading}, the best on validation ({found})")
    print(f"Model of recipe {record['sequence_options']['recipe']} written to {folder}")
