"""
`prepare`: a log of interactions becomes a folder of histories, items and users, whole or not at all.

*Source:* leave-one-out as in Sun et al., "BERT4Rec" (CIKM 2019), section 4.2: last event for test, the one before for
validation.

*Differences:* by default users and items with fewer than five events are dropped, and the report says how many; both
minima at 1 keep the log as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from .duckdb_engine import DuckDBEngine
from .engine import ENGINE_FILE, SPILL_FOLDER, Engine
from .filters import FilteredLog, collapse_repeats, drop_unknown_items, keep_core, key_log, time_cuts
from .histories import (
    DATA_FILES,
    FORMAT,
    VERSION,
    InteractionData,
    load_data,
    write_events,
    write_items,
    write_users,
)
from .log import LoadedLog, load_events, load_titles
from .options import InteractionOptions, with_overrides
from .spark_engine import SparkEngine

ENGINES: dict[str, Any] = {"duckdb": DuckDBEngine, "spark": SparkEngine}


def prepare(
    log: Any,
    output_dir: str | Path,
    *,
    options: InteractionOptions | None = None,
    vocabulary: Sequence[str] | None = None,
    items: Any = None,
    overwrite: bool = False,
    **option_overrides: Any,
) -> InteractionData:
    r"""
    Read, filter, order and split a log of interactions.

    In this order: events rated below `min_rating` go, then items outside `vocabulary`, then repeats (if they are
    collapsed), then users and items with too few events, in turns until all have enough. Each user's events are
    ordered by time, equal times in the order of the log.

    Args:
        log: Path of a CSV, TSV, Parquet or JSON lines file (also `.gz`), a pattern, a list of paths,
            `pandas.DataFrame`, `pyarrow.Table` or `datasets.Dataset`.
        output_dir (`str` or `Path`): The folder to make: under the name `output_dir.partial`, renamed when whole.
        options (`InteractionOptions`, *optional*): How to read, filter and split.
        vocabulary (`Sequence[str]`, *optional*): Known item ids in the order of their indices, such as those of an
            older tokenizer. They become the items, and events of others are skipped or refused (`unknown_items`).
            Without it the items are those of the filtered log, the most frequent first, ties in the order of their
            text.
        items (*optional*): Where titles come from, as for `log`; takes the place of `options.items_file`.
        overwrite (`bool`, defaults to `False`): Replace a folder that `prepare` made before.
        option_overrides: Any field of `InteractionOptions`.

    Returns:
        `InteractionData`: the folder, opened.

    Raises:
        FileExistsError: If the folder exists and may not be replaced.
        FileNotFoundError: If a file is not there.
        OSError: If the disk is full.
        ValueError: If the log or an option cannot be used; the message names the file, the line and the value.

    Example:
        >>> import tempfile
        >>> import pandas as pd
        >>> log = pd.DataFrame({"user_id": list("uuuvv"), "item_id": list("abcab"), "timestamp": [3, 1, 2, 5, 4]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = prepare(log, folder + "/data", min_user_events=1, min_item_events=1)
        ...     [data.item_ids[item].as_py() for item in data.history(data.user_index("u"))]
        ['b', 'c', 'a']
    """
    options = with_overrides(options, option_overrides)
    folder = Path(output_dir)
    partial = _claim(folder, overwrite)
    engine = None
    make_engine = ENGINES[options.engine]
    try:
        with make_engine.plain_errors(folder, options.memory_limit):
            partial.mkdir(parents=True)
            engine = make_engine(partial, options.memory_limit, options.threads)
            metadata = _write(engine, partial, options, (log, vocabulary, items))
            engine.close()
            for path in partial.iterdir():
                if path.name not in DATA_FILES:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            (partial / "data.json").write_text(
                json.dumps(metadata, ensure_ascii=False, indent=1, default=str), "utf-8"
            )
    except BaseException:
        if engine is not None:
            engine.close()
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return load_data(folder)


def _claim(folder: Path, overwrite: bool) -> Path:
    """The folder to work in, not there yet. Nothing is ever replaced that `prepare` did not make."""
    if folder.exists() and not overwrite:
        raise FileExistsError(
            f"{folder} exists: choose another output folder, or --overwrite_output_dir (overwrite=True) to replace it"
        )
    if folder.exists() and not _holds_only(folder, set(DATA_FILES)):
        raise FileExistsError(f"{folder} is not a folder of prepared interactions: choose another output folder")
    partial = folder.with_name(folder.name + ".partial")
    own = {*DATA_FILES, ENGINE_FILE, f"{ENGINE_FILE}.wal", SPILL_FOLDER, "log.csv", "log.jsonl"}
    if partial.exists() and not _holds_only(partial, own):
        raise FileExistsError(f"{partial} is in the way: remove it, or choose another output folder")
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def _holds_only(folder: Path, names: set[str]) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= names


def _write(engine: Engine, folder: Path, options: InteractionOptions, given: tuple[Any, Any, Any]) -> dict[str, Any]:
    """Everything but `data.json`, whose content it returns."""
    log, vocabulary, items = given
    items = options.items_file if items is None else items
    titles = None if items is None else load_titles(engine, items, options, folder)
    loaded = load_events(engine, log, options, folder)
    num_known = None if vocabulary is None else _load_vocabulary(engine, vocabulary)
    filtered = _filter(engine, loaded, options, num_known)
    report: dict[str, Any] = {"log": loaded.name, "columns": loaded.columns, "times": filtered.time_kind}
    report |= {"read": filtered.read, "dropped": filtered.dropped, "left": filtered.left}
    num_items, num_titles = _number_items(filtered, num_known, titles is not None)
    _number_users(filtered)
    split: dict[str, Any] = {"name": options.split}
    before = ""
    if options.split == "global-time":
        cuts = time_cuts(filtered, options.validation_share, options.test_share)
        split |= dict(zip(("validation_from", "test_from"), cuts, strict=True))
        before = "cast(before_validation as bigint) as before_validation, cast(before_test as bigint) as before_test, "
    title = "" if titles is None else ", title"
    write_items(folder, engine.batches(f"select item_id, num_events{title} from numbered_items order by item_index"))
    write_events(folder, engine.batches(_sorted_events(filtered)), filtered.left["events"])
    joined = "numbered_users join events_before on events_before.user_key = numbered_users.user_key"
    users = f"select user_id, {before}num_events from {joined if before else 'numbered_users'} order by user_index"
    report["split"] = split | write_users(folder, engine.batches(users), num_items)
    if titles is not None:
        without = num_items - num_titles
        report["titles"] = {"log": titles.name, "items_with_title": num_titles, "items_without_title": without}
    return {
        "format": FORMAT,
        "version": VERSION,
        "options": asdict(options),
        "report": report,
        "item_id_type": "int" if loaded.kinds["item"] == "integer" else "str",
        "num_users": filtered.left["users"],
        "num_items": num_items,
        "num_events": filtered.left["events"],
        "split": options.split,
    }


def _load_vocabulary(engine: Engine, vocabulary: Sequence[str]) -> int:
    ids = pa.array([str(item) for item in vocabulary], pa.string())
    if not len(ids):
        raise ValueError("the vocabulary is empty: give the item ids of a tokenizer")
    indices = pa.array(range(len(ids)), pa.int64())
    engine.register("given_vocabulary", pa.table({"item_id": ids, "item_index": indices}))
    engine.run("create table vocabulary as select * from given_vocabulary")
    repeated = engine.value(
        "select min(item_id) from (select item_id from vocabulary group by item_id having count(*) > 1) as repeated"
    )
    if repeated is not None:
        raise ValueError(f"the vocabulary holds {repeated!r} more than once: give each item once")
    return len(ids)


def _filter(engine: Engine, loaded: LoadedLog, options: InteractionOptions, num_known: int | None) -> FilteredLog:
    filtered = key_log(engine, loaded, options, num_known)
    if num_known is not None:
        drop_unknown_items(filtered, num_known, options.unknown_items == "error")
    if options.repeats == "collapse":
        collapse_repeats(filtered)
    keep_core(filtered, options.min_user_events, options.min_item_events)
    return filtered


def _number_items(filtered: FilteredLog, num_known: int | None, has_titles: bool) -> tuple[int, int]:
    """Make `numbered_items(item_index, item_key, item_id, num_events[, title])`; counts of items and of titles."""
    title, join = "", ""
    if has_titles:
        title = ", title"
        join = (
            "left join (select item_value, title_value as title from (select item_value, title_value, row_number() over "
            "(partition by item_value order by row_index) as mention from titles) as mentions where mention = 1) "
            "as first_titles on cast(item_value as string) = item_id"
        )
    if num_known is not None:
        items = (
            "select item_index, item_index as item_key, item_id, coalesce(num_events, 0) as num_events from vocabulary "
            "left join kept_items on kept_items.item_key = vocabulary.item_index"
        )
    else:
        number = "row_number() over (order by num_events desc, item_id) - 1"
        items = f"select {number} as item_index, item_key, item_id, num_events from {_with_texts(filtered, 'item')}"
    filtered.engine.run(
        "create table numbered_items as select cast(item_index as integer) as item_index, item_key, item_id, "
        f"num_events{title} from ({items}) as items {join}"
    )
    num_items, num_titles = filtered.engine.row(
        f"select count(*), count({'title' if has_titles else 'item_id'}) from numbered_items"
    )
    return num_items, num_titles


def _number_users(filtered: FilteredLog) -> None:
    """Make `numbered_users(user_index, user_key, user_id, num_events)`, in the order of the texts."""
    filtered.engine.run(
        "create table numbered_users as select cast(row_number() over (order by user_id) - 1 as integer) as user_index, "
        f"user_key, user_id, num_events from {_with_texts(filtered, 'user')}"
    )


def _with_texts(filtered: FilteredLog, noun: str) -> str:
    """The users or items that are left, with their ids as text."""
    ids = filtered.ids[noun]
    text, join = ("id_text", f"join {ids} on id_key = {noun}_key") if ids else (f"cast({noun}_key as string)", "")
    return f"(select {noun}_key, {text} as {noun}_id, num_events from kept_{noun}s {join}) as texts"


def _sorted_events(filtered: FilteredLog) -> str:
    # The joins do the work of the last filter round: other users and items have no number, or no event left.
    return (
        f"select item_index from {filtered.table} as events "
        "join numbered_users on numbered_users.user_key = events.user_key "
        "join numbered_items on numbered_items.item_key = events.item_key and numbered_items.num_events > 0 "
        "order by user_index, time_key, row_index"
    )
