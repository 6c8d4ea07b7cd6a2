"""
From whatever a log is kept in to one relation of the engine: a column for each role, and the row in the log.

Parquet is read where it lies, as often as a query needs it. Everything else is copied once into a table
of the engine's reader.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from .columns import KNOWN_NAMES, NO_COLUMN, choose_column, choose_event_columns, shown
from .duckdb_engine import DuckDBEngine
from .engine import Engine, first_line
from .options import InteractionOptions
from .sources import IDS, JsonSource, TextSource
from .tables import MemorySource, ParquetSource
from .text import kind_of, plain_name

PARQUET = (".parquet", ".pq")
JSON_LINES = (".json", ".jsonl", ".ndjson")


@dataclass
class LoadedLog:
    """
    A log that the engine can query.

    Attributes:
        sources (`list`): What it was read from.
        columns (`dict[str, str]`): Name of the column that plays each role; a role without a column is absent.
        kinds (`dict[str, str]`): `"text"`, `"integer"`, `"float"`, `"timestamp"` or `"nanosecond"` of each role.
        integers (`set[str]`): Roles that the engine holds as integers; integers of a text are digits to it.
        starts (`list[int]`): Row at which each source begins.
    """

    sources: list[Any]
    columns: dict[str, str]
    kinds: dict[str, str]
    integers: set[str]
    starts: list[int] = field(default_factory=lambda: [0])

    def place(self, row: int) -> str:
        """Where a person finds a row: file and line."""
        number = max(number for number, start in enumerate(self.starts) if start <= row)
        return self.sources[number].place(row - self.starts[number])

    @property
    def name(self) -> str:
        """The first source, and how many more there are."""
        num_more = len(getattr(self.sources[0], "paths", self.sources)) - 1
        return self.sources[0].name + (f" and {num_more} more" if num_more else "")


def load_events(engine: Engine, log: Any, options: InteractionOptions, folder: Path) -> LoadedLog:
    """
    Make a log known to the engine as `log(user_value, item_value, time_value, rating_value, row_index)`; time and
    rating only where they are read.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file cannot be read or a column is missing.
    """
    wanted = {"user": options.user_column, "item": options.item_column, "time": options.time_column}
    if options.min_rating is not None:
        wanted["rating"] = options.rating_column
    settings = _settings((options.separator, options.encoding, options.header), wanted)
    sources = open_sources(engine, log, settings, folder)
    chosen = [choose_event_columns(source.name, source.columns, wanted, source.first_record) for source in sources]
    for source, positions in zip(sources, chosen, strict=True):
        if positions.keys() != chosen[0].keys():
            roles = f"{shown(list(positions))} in {source.name}, {shown(list(chosen[0]))} in {sources[0].name}"
            raise ValueError(f"the files of the log have different columns ({roles}): give files with the same ones")
    return _load(engine, sources, chosen, "log")


def load_titles(engine: Engine, items: Any, options: InteractionOptions, folder: Path) -> LoadedLog:
    """
    Make an items file known to the engine as `titles(item_value, title_value, row_index)`.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read or a column is missing.
    """
    wanted = {"item": options.items_id_column, "title": options.items_title_column}
    settings = _settings((options.items_separator, options.items_encoding, options.items_header), wanted)
    sources = open_sources(engine, items, settings, folder)
    chosen = []
    for source in sources:
        positions = {}
        for default, (role, name) in enumerate(wanted.items()):
            option = "items_id_column" if role == "item" else "items_title_column"
            found = choose_column(source.name, source.columns, name, role, option)
            positions[role] = default if found is None else found
        if len(source.columns) < 2 or positions["item"] == positions["title"]:
            raise ValueError(
                f"{source.name} shows no item ids and titles in two columns (it has {shown(source.columns)}): "
                "give items_id_column and items_title_column"
            )
        chosen.append(positions)
    return _load(engine, sources, chosen, "titles")


def open_sources(engine: Engine, log: Any, settings: dict[str, Any], folder: Path) -> list[Any]:
    """
    The sources of a log: a path, a pattern, a list of these, or rows in memory.

    Raises:
        FileNotFoundError: If a path is not there or a pattern finds nothing.
        ValueError: If Parquet files are mixed with others, or a file cannot be read.
    """
    if isinstance(log, (str, os.PathLike)):
        log = [log]
    if not isinstance(log, Sequence) or not all(isinstance(path, (str, os.PathLike)) for path in log):
        return [MemorySource(log, engine.reader)]
    paths = [path for pattern in log for path in _matching(os.fspath(pattern))]
    if not paths:
        raise ValueError("the list of log files is empty: give at least one")
    suffixes = [kind_of(path) for path in paths]
    if all(suffix in PARQUET for suffix in suffixes):
        return [ParquetSource(paths, engine)]
    if any(suffix in PARQUET for suffix in suffixes):
        raise ValueError(f"the log mixes Parquet with other files ({shown(paths)}): give files of one kind")
    return [
        (JsonSource if suffix in JSON_LINES else TextSource)(path, settings, folder)
        for path, suffix in zip(paths, suffixes, strict=True)
    ]


def _settings(how: tuple[str | None, str, str], wanted: dict[str, str | None]) -> dict[str, Any]:
    names = {name for name in wanted.values() if name and name != NO_COLUMN and not name.isdigit()}
    known_names = {name for role in wanted for name in KNOWN_NAMES[role]} | {plain_name(name) for name in names}
    return dict(zip(("separator", "encoding", "header"), how, strict=True)) | {
        "names": names,
        "known_names": known_names,
    }


def _matching(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        raise ValueError(f"{pattern} is a folder: give its files, such as {os.path.join(pattern, '*.parquet')}")
    if os.path.exists(pattern):
        return [pattern]
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise FileNotFoundError(f"there is no file {pattern}: correct the path")
    return found


def _load(engine: Engine, sources: list[Any], chosen: list[dict[str, int]], table: str) -> LoadedLog:
    reader = engine.reader
    kinds = {role: sources[0].kind(role, position) for role, position in chosen[0].items()}
    columns = {role: sources[0].columns[position] for role, position in chosen[0].items()}
    loaded = LoadedLog(sources, columns, kinds, {role for role, kind in kinds.items() if kind == "integer"})
    if isinstance(sources[0], ParquetSource):
        engine.run(f"create temp view {table} as {sources[0].query(chosen[0])}")
        return loaded
    for source, positions in zip(sources, chosen, strict=True):
        into = f"insert into {table}_rows by name" if len(loaded.starts) > 1 else f"create temp table {table}_rows as"
        _copy_rows(reader, source, positions, into)
        loaded.starts.append(reader.value(f"select count(*) from {table}_rows"))
    reader.run(f"create temp view {table} as select *, rowid as row_index from {table}_rows")
    for role in IDS:
        if kinds.get(role) == "json":
            kinds[role] = _json_id_kind(reader, loaded, table, role)
    engine.adopt(table)
    return loaded


def _copy_rows(engine: DuckDBEngine, source: Any, positions: dict[str, int], into: str) -> None:
    try:
        engine.run(f"{into} {source.query(positions)}")
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if "No space left" in str(error):
            raise
        if (fault := source.fault()) is not None:
            raise ValueError(fault) from None
        if not isinstance(source, TextSource):
            raise ValueError(f"{source.name} cannot be read: {first_line(error)}; write it again") from None
        # Every record is as it should be: the engine stumbled over line ends of two kinds, which it takes when not strict.
        engine.run(f"{into} {source.query(positions, is_strict=False)}")


def _json_id_kind(engine: DuckDBEngine, loaded: LoadedLog, table: str, role: str) -> str:
    """Ids of JSON lines are integers if every line says so."""
    num_integers, num_texts, wrong = engine.row(
        f"select count(*) filter ({role}_json in ('UBIGINT', 'BIGINT')), count(*) filter ({role}_json = 'VARCHAR'), "
        f"min(row_index) filter ({role}_json not in ('UBIGINT', 'BIGINT', 'VARCHAR', 'NULL')) from {table}"
    )
    if wrong is not None:
        column = loaded.columns[role]
        raise ValueError(
            f"{loaded.place(wrong)}: {column!r} is neither text nor an integer of 64 bits; correct the {role} id, or write all "
            "as text"
        )
    return "integer" if num_integers and not num_texts else "text"
