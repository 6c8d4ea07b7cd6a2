"""The command `hf-bert4rec`: parse, call, print. What is wrong with the input is said in one line, with exit code 2."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import Pipeline, TrainingArguments, pipeline
from transformers.utils import logging as transformers_logging

from . import Bert4RecConfig
from .answer_files import SUFFIXES, ParquetAnswers
from .command_options import COMMON_ARGUMENTS, add_options
from .comparison import check_vocabulary, evaluate_run
from .demo import run_demo
from .embedding import write_vectors
from .interactions import InteractionOptions, load_data, prepare
from .known_results import known_beside
from .metrics_text import evaluation_text, known_table, metrics_table
from .model_card import CardOptions, write_model_card
from .protocols import PROTOCOLS, comparability, read_metrics
from .published_results import DATASETS
from .recipes import RECIPES
from .run_folder import load_run
from .training import RUN_DEFAULTS, SequenceOptions, option_fields, train

BATCH_OF_LINES = 1024


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = build_parser(show_all="--help_all" in (sys.argv[1:] if arguments is None else arguments))
    options = parser.parse_args(arguments)
    values = vars(options)
    command, function = values.pop("command"), values.pop("function")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of loading and saving; that of the training stays
    try:
        return function(**values) or 0
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"hf-bert4rec {command}: {one_line(error)}", file=sys.stderr)
        return 2
    except (SafetensorError, RuntimeError) as error:
        # How a full disk reads when the writers of safetensors and torch run into it.
        if "No space left" not in str(error) and "failed writing file" not in str(error):
            raise
        print(f"hf-bert4rec {command}: no space left on device; free some and repeat the command", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hf-bert4rec {command}: stopped; what is unfinished stays in .partial", file=sys.stderr)
        return 130


def one_line(error: BaseException) -> str:
    """What is wrong, without the lines that a library put around it."""
    while isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def build_parser(show_all: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands; `show_all` lists every field of `TrainingArguments` in the help of `train`."""
    parser = argparse.ArgumentParser(
        prog="hf-bert4rec", description="BERT4Rec from a log of interactions to recommendations.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, arguments: str, function: Any, text: str) -> argparse.ArgumentParser:
        usage = f"hf-bert4rec {name} {arguments} [options]"
        sub = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
        sub.set_defaults(function=function)
        return sub

    text = "Filter, order and split a log; write histories that `train` reads."
    _add_prepare(command("prepare", "LOG --output_dir DATA", _prepare, text))
    text = "Train on a log or on prepared data."
    _add_train(command("train", "LOG_OR_DATA --output_dir RUN", _train, text), show_all)
    text = "Metrics of a trained model beside popularity and Markov counts."
    _add_evaluate(command("evaluate", "RUN --data DATA", _evaluate, text))
    text = "Metrics of two evaluations side by side, or why they cannot be compared (then the exit code is 1)."
    compare_metrics = command("compare-metrics", "METRICS METRICS", _compare_metrics, text)
    for name in ("one", "other"):
        compare_metrics.add_argument(name, metavar="METRICS", help="file that `evaluate --output_file` wrote")
    text = "Next items for histories of item ids, as JSON."
    _add_recommend(command("recommend", "RUN --history ID ID ...", _recommend, text))
    text = "Write the README.md of a trained model from its record and its metrics."
    _add_card(command("card", "RUN --metrics METRICS ...", _card, text))
    text = "Write item and user vectors to Parquet; their product plus bias is the score."
    _add_embed(command("embed", "RUN --output_dir VECTORS", _embed, text))
    text = "Train on a generated world and compare with baselines and with the best possible."
    _add_demo(command("demo", "", _demo, text))
    return parser


def _add_prepare(parser: argparse.ArgumentParser):
    parser.add_argument(
        "log", metavar="LOG", nargs="+", help="CSV, TSV, Parquet or JSON lines; several files are one log"
    )
    parser.add_argument("--output_dir", required=True, help="folder of the prepared data")
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder"
    )
    parser.add_argument("--tokenizer", metavar="RUN", help="encode with the vocabulary of this trained model")
    add_options(parser, InteractionOptions, option_fields()[InteractionOptions], title="log")


def _add_train(parser: argparse.ArgumentParser, show_all: bool):
    parser.add_argument("data", metavar="LOG_OR_DATA", help="a log, or the folder that `prepare` wrote")
    parser.add_argument("--output_dir", required=True, help="folder of the run; made as OUTPUT_DIR.partial")
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing run"
    )
    parser.add_argument("--help_all", action="help", help="list every field of transformers.TrainingArguments too")
    fields = option_fields()
    add_options(parser, Bert4RecConfig, fields[Bert4RecConfig], title="model", defaults=RECIPES["default"])
    add_options(parser, SequenceOptions, fields[SequenceOptions], title="sequences")
    add_options(
        parser,
        TrainingArguments,
        fields[TrainingArguments],
        title="training (every field of transformers.TrainingArguments can be given)",
        defaults=RUN_DEFAULTS | RECIPES["default"],
        shown=None if show_all else COMMON_ARGUMENTS,
    )
    add_options(parser, InteractionOptions, fields[InteractionOptions], title="log (where LOG_OR_DATA is a log)")


def _add_evaluate(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
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
    parser.add_argument("--batch_size", type=int, default=256, help="users scored at a time (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="fixes drawn negatives and the bootstrap (default: 0)")


def _add_recommend(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--history", nargs="*", metavar="ID", help="item ids, oldest first")
    source.add_argument("--user", metavar="ID", help="a user of --data")
    source.add_argument(
        "--input_file", help='JSON lines: a list of ids, or {"history": [...]} with keys that are kept'
    )
    parser.add_argument("--data", metavar="DATA", help="prepared data that holds --user")
    parser.add_argument(
        "--output_file",
        help="JSON lines, or Parquet where it ends in .parquet: one row for each line of --input_file (default: standard "
        "output)",
    )
    parser.add_argument("--top_k", type=int, default=10, help="items for each history (default: 10)")
    parser.add_argument("--keep_seen", action="store_true", help="recommend items of the history too")
    parser.add_argument("--allowed_items", nargs="+", metavar="ID", help="recommend only these")
    parser.add_argument("--denied_items", nargs="+", metavar="ID", help="never recommend these")
    parser.add_argument(
        "--unknown_items",
        choices=("skip", "error"),
        default="skip",
        help="items the model does not know (default: skip)",
    )


def _add_embed(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    parser.add_argument("--data", metavar="DATA", help="prepared data whose users are embedded; without it items only")
    parser.add_argument("--output_dir", required=True, help="folder for item_vectors.parquet and user_vectors.parquet")
    parser.add_argument(
        "--overwrite_output_dir", dest="overwrite", action="store_true", help="replace an existing folder"
    )


def _add_card(parser: argparse.ArgumentParser):
    parser.add_argument("run", metavar="RUN", help="folder of the trained model")
    text = "files of `evaluate --output_file`: one for each protocol, and those of the same run with other seeds"
    parser.add_argument("--metrics", metavar="METRICS", nargs="+", required=True, help=text)
    parser.add_argument("--output_file", help="the card; pictures go beside it (default: README.md in RUN)")
    add_options(parser, CardOptions, {field.name: field for field in dataclasses.fields(CardOptions)}, title="card")


def _add_demo(parser: argparse.ArgumentParser):
    parser.add_argument("--output_file", help="JSON with the metrics of all four")
    parser.add_argument("--output_dir", help="keep log, data and model in this folder")


def _prepare(log: list[str], output_dir: str, overwrite: bool, tokenizer: str | None, **options: Any):
    vocabulary = None
    if tokenizer is not None:
        vocabulary = [str(item) for item in load_run(tokenizer)[1].item_ids]
    data = prepare(log if len(log) > 1 else log[0], output_dir, vocabulary=vocabulary, overwrite=overwrite, **options)
    print(data.report_text())
    print(f"Data written to {output_dir}")


def _train(data: str, output_dir: str, overwrite: bool, **options: Any):
    folder = train(data, output_dir, overwrite=overwrite, **options)
    record = json.loads((folder / "run.json").read_text())
    if record["best_metric"] is not None:
        metric = record["training_arguments"]["metric_for_best_model"]
        print(f"Best validation {metric}: {record['best_metric']:.4f} at step {record['best_step']}")
    print(f"Model of recipe {record['sequence_options']['recipe']} written to {folder}")


def _evaluate(
    *, run: str, data: str, split: str, protocol: str, dataset: str | None, output_file: str | None, **options: Any
):
    result = evaluate_run(run, data, split=split, protocol=protocol, **options)
    if int(os.environ.get("RANK", "0")):
        return  # every process has the whole result; the first one reports
    print(evaluation_text(result))
    beside = known_beside(result, dataset)
    if beside is not None:
        print(known_table(beside, result), flush=True)
        for warning in beside.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if output_file is not None:
        _write_whole(Path(output_file), json.dumps(result, indent=2) + "\n")


def _compare_metrics(one: str, other: str) -> int:
    found = {path: read_metrics(path) for path in (one, other)}
    reasons = comparability(found[one], found[other])
    for reason in reasons:
        print(f"not comparable: {reason}")
    if not reasons:
        print(metrics_table({path: metrics["model"] for path, metrics in found.items()}))
    return int(bool(reasons))


def _recommend(
    *,
    run: str, history: list[str] | None, user: str | None, input_file: str | None, data: str | None,
    output_file: str | None, keep_seen: bool, **options: Any,
):  # fmt: skip
    if (user is None) != (data is None):
        raise ValueError("--user and --data belong together; give both or neither.")
    if (
        input_file is not None
        and output_file is not None
        and Path(output_file).resolve() == Path(input_file).resolve()
    ):
        raise ValueError(f"--output_file {output_file} is the input file; give another name.")
    model, tokenizer = load_run(run)
    recommender = pipeline("next-item-recommendation", model=model, tokenizer=tokenizer)
    options["filter_seen"] = not keep_seen
    if input_file is not None:
        _stream(recommender, Path(input_file), output_file, options)
        return
    if user is not None and data is not None:
        loaded = load_data(data)
        check_vocabulary(tokenizer, loaded)
        history = loaded.item_ids.take(loaded.history(loaded.user_index(user))).to_pylist()
    answer = recommender(history, **options)
    text = json.dumps(answer, ensure_ascii=False, indent=2) + "\n"
    if output_file is None:
        print(text, end="")
    elif Path(output_file).suffix in SUFFIXES:
        with _whole(Path(output_file)) as partial, ParquetAnswers(partial, tokenizer) as answers:
            answers.write([answer])
    else:
        _write_whole(Path(output_file), text)


def _stream(recommender: Pipeline, input_file: Path, output_file: str | None, options: dict[str, Any]):
    """Recommend line by line in flat memory; a bad line becomes an error record in its place."""
    recommender([], **options)  # an option that cannot be used is found before the first line
    with input_file.open("rb") as lines:
        if output_file is None:
            num_bad = _answer(recommender, lines, _lines_writer(sys.stdout), options)
        elif Path(output_file).suffix in SUFFIXES:
            with _whole(Path(output_file)) as partial, ParquetAnswers(partial, recommender.tokenizer) as answers:
                num_bad = _answer(recommender, lines, answers.write, options)
        else:
            with _whole(Path(output_file)) as partial, partial.open("w", encoding="utf-8") as out:
                num_bad = _answer(recommender, lines, _lines_writer(out), options)
    if num_bad:
        print(f"{num_bad} bad lines were reported and skipped", file=sys.stderr)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name of the file once all is written."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _lines_writer(out: TextIO) -> Callable[[list[dict[str, Any]]], None]:
    def write(answers: list[dict[str, Any]]):
        out.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
        out.flush()

    return write


def _answer(
    recommender: Pipeline, lines: BinaryIO, write: Callable[[list[dict[str, Any]]], None], options: dict[str, Any]
) -> int:
    """Write an answer for each line; returns the number of bad ones."""
    num_bad = 0
    for records in _batches(lines, recommender, options["unknown_items"]):
        good = [record for record in records if "error" not in record]
        found = iter(recommender([record["history"] for record in good], **options) if good else [])
        answers = []
        for record in records:
            if "error" in record:
                num_bad += 1
                print(f"{lines.name} line {record['line']}: {record['error']}", file=sys.stderr)
                answers.append(record)
            else:
                answers.append(record["keys"] | next(found))
        write(answers)
    return num_bad


def _batches(lines: BinaryIO, recommender: Pipeline, unknown_items: str) -> Iterator[list[dict[str, Any]]]:
    """Parsed lines, `BATCH_OF_LINES` at a time; blank lines are left out."""
    batch = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        batch.append(_parsed(line, number, recommender, unknown_items))
        if len(batch) == BATCH_OF_LINES:
            yield batch
            batch = []
    if batch:
        yield batch


def _parsed(line: bytes, number: int, recommender: Pipeline, unknown_items: str) -> dict[str, Any]:
    """`history` and the other keys of a line, or `line` and `error`."""
    try:
        value = json.loads(line)
        keys = {key: kept for key, kept in value.items() if key != "history"} if isinstance(value, dict) else {}
        recommender.preprocess(value, unknown_items=unknown_items)
        return {"history": value["history"] if isinstance(value, dict) else value, "keys": keys}
    except json.JSONDecodeError as error:
        return {"line": number, "error": f"no JSON: {error.msg} at column {error.colno}"}
    except UnicodeDecodeError as error:
        return {"line": number, "error": f"not UTF-8: {error.reason} at byte {error.start}"}
    except ValueError as error:
        return {"line": number, "error": one_line(error)}


def _embed(run: str, data: str | None, output_dir: str, overwrite: bool):
    model, tokenizer = load_run(run)
    loaded = None
    if data is not None:
        loaded = load_data(data)
        check_vocabulary(tokenizer, loaded)
    for path in write_vectors(model, tokenizer, output_dir, data=loaded, overwrite=overwrite):
        print(f"Written {path}")


def _card(run: str, metrics: list[str], output_file: str | None, **options: Any):
    print("Written", *write_model_card(run, metrics, output_file, **options))


def _demo(output_file: str | None, output_dir: str | None):
    results, examples = run_demo(output_dir)
    print(metrics_table(results))
    for example in examples:
        print("\nlast seen:   " + ", ".join(example["history"]))
        print("recommended: " + ", ".join(example["recommendations"]))
    if output_file is not None:
        _write_whole(Path(output_file), json.dumps(results, indent=2) + "\n")


def _write_whole(path: Path, text: str):
    """The file is whole or untouched."""
    with _whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
