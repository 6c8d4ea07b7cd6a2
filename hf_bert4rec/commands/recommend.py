"""`hf-bert4rec recommend`: histories of item ids in, ranked item ids out, one or millions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from transformers import Pipeline, pipeline

from ..answer_files import SUFFIXES, ParquetAnswers
from ..comparison import check_vocabulary
from ..error_text import one_line
from ..interactions import load_data
from ..run_folder import load_run
from ..whole_file import whole_file, write_whole_file

USAGE = "RUN --history ID ID ..."
HELP = "Next items for histories of item ids, as JSON."

BATCH_OF_LINES = 1024


def add_arguments(parser: argparse.ArgumentParser):
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
    parser.add_argument("--top_k", type=int, help="items for each history (default: 10)")
    parser.add_argument("--keep_seen", action="store_true", help="recommend items of the history too")
    parser.add_argument("--allowed_items", nargs="+", metavar="ID", help="recommend only these")
    parser.add_argument("--denied_items", nargs="+", metavar="ID", help="never recommend these")
    parser.add_argument(
        "--unknown_items",
        choices=("skip", "error"),
        default="skip",
        help="items the model does not know (default: skip)",
    )


def run(
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
        with whole_file(Path(output_file)) as partial, ParquetAnswers(partial, tokenizer) as answers:
            answers.write([answer])
    else:
        write_whole_file(Path(output_file), text)


def _stream(recommender: Pipeline, input_file: Path, output_file: str | None, options: dict[str, Any]):
    """Recommend line by line in flat memory; a bad line becomes an error record in its place."""
    recommender([], **options)  # an option that cannot be used is found before the first line
    with input_file.open("rb") as lines:
        if output_file is None:
            num_bad = _answer(recommender, lines, _lines_writer(sys.stdout), options)
        elif Path(output_file).suffix in SUFFIXES:
            with whole_file(Path(output_file)) as partial, ParquetAnswers(partial, recommender.tokenizer) as answers:
                num_bad = _answer(recommender, lines, answers.write, options)
        else:
            with whole_file(Path(output_file)) as partial, partial.open("w", encoding="utf-8") as out:
                num_bad = _answer(recommender, lines, _lines_writer(out), options)
    if num_bad:
        print(f"{num_bad} bad lines were reported and skipped", file=sys.stderr)


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
        if b"\\ud" in line.lower():  # half a character, which cannot be written again
            json.dumps(value, ensure_ascii=False).encode()
        recommender.preprocess(value, unknown_items=unknown_items)
        return {"history": value["history"] if isinstance(value, dict) else value, "keys": keys}
    except json.JSONDecodeError as error:
        return {"line": number, "error": f"no JSON: {error.msg} at column {error.colno}"}
    except UnicodeDecodeError as error:
        return {"line": number, "error": f"not UTF-8: {error.reason} at byte {error.start}"}
    except RecursionError:
        return {"line": number, "error": "no history: lists within too many lists"}
    except ValueError as error:
        return {"line": number, "error": one_line(error)}
