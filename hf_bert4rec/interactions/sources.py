"""
One class per kind of log in text: delimited columns, and JSON lines. `tables.py` has the kinds that carry types.

Every source has
- `name`, `columns` (their names), and `first_record` (the fields of the first line where no header names the columns);
- `kind(role, position)`: `"text"`, `"integer"`, `"float"`, `"timestamp"` or `"nanosecond"`; `"json"` for ids that say
  what they are;
- `query(chosen)`: a select of one expression per role, `user_value` for the user and so on, in the order of the log;
- `place(row)`: where a person finds the row with this index;
- `fault()`: one line on what in the file cannot be read, or `None`.

*Source:* DuckDB's `read_csv` and `read_json`.

*Differences:* no column type is ever sniffed: text is read as text.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import text
from .engine import literal, path_literal

IDS = ("user", "item")


def identifier(name: str) -> str:
    """A quoted name of SQL."""
    return '"' + name.replace('"', '""') + '"'


class TextSource:
    """
    A file of delimited text, gzipped or not.

    Args:
        path (`str`): The file.
        settings (`dict`): `separator`, `encoding` and `header` as in `InteractionOptions`; `names`, the column names
            asked for; `known_names`, those that tell a header.
        folder (`Path`): Where a copy as UTF-8 goes if the file has another encoding.

    Raises:
        ValueError: If the file is empty, cannot be decoded or shows no separator.
    """

    def __init__(self, path: str, settings: dict[str, Any], folder: Path):
        encoding = text.python_encoding(settings["encoding"])
        self._num_blank_lines, lines = text.first_lines(path, encoding)
        separator = text.find_separator(path, lines, settings["separator"])
        fields = text.first_fields(lines, separator)
        if not fields:
            raise ValueError(f"{path}, line 1: the quotes of {text.shown(lines[0])} do not close; correct them")
        has_header = settings["header"] == "true"
        if settings["header"] == "auto":
            # Who asks for a column by name says that the first line names them.
            has_header = bool(settings["names"]) or text.find_header(lines, separator, settings["known_names"])
        self.name = path
        self.format = text.TextFormat(separator, encoding, has_header, len(fields[0]))
        self.columns = fields[0] if has_header else [str(position) for position in range(len(fields[0]))]
        self.first_record = None if has_header else fields[0]
        self._folder = folder

    def kind(self, role: str, position: int) -> str:
        return "text"

    def query(self, chosen: dict[str, int], is_strict: bool = True) -> str:
        path = text.utf8_path(self.name, self.format.encoding, self._folder / "log.csv")
        columns = ", ".join(f"'c{position}': 'VARCHAR'" for position in range(self.format.num_columns))
        quote = literal('"' if self.format.is_quoted else "")
        return (
            f"select {', '.join(f'c{position} as {role}_value' for role, position in chosen.items())} "
            f"from read_csv({path_literal(path)}, columns = {{{columns}}}, auto_detect = false, null_padding = false, "
            f"delim = {literal(self.format.separator)}, quote = {quote}, escape = {quote}, strict_mode = {is_strict}, "
            f"header = {self.format.has_header}, skip = {self._num_blank_lines}, compression = '{_compression(path)}', "
            "hive_partitioning = false)"
        )

    def place(self, row: int) -> str:
        return f"{self.name}, line {text.record_line(self.name, self.format, row)}"

    def fault(self) -> str | None:
        return text.record_fault(self.name, self.format)


class JsonSource:
    """
    A file with one JSON object per line, gzipped or not. Arguments and errors as for `TextSource`.

    The keys of the first lines are its columns; an id is a string or an integer.
    """

    first_record = None

    def __init__(self, path: str, settings: dict[str, Any], folder: Path):
        self.name = path
        self._encoding = text.python_encoding(settings["encoding"])
        self._folder = folder
        names: dict[str, None] = {}
        for line in text.first_lines(path, self._encoding)[1]:
            names.update(dict.fromkeys(_json_object(line) or ()))
        self.columns = list(names)
        if not names:
            raise ValueError(self.fault() or f"{path}: the objects of the first lines are empty; give a log of events")

    def kind(self, role: str, position: int) -> str:
        return "json" if role in IDS else "text"

    def query(self, chosen: dict[str, int]) -> str:
        path = text.utf8_path(self.name, self._encoding, self._folder / "log.jsonl")
        names = {role: identifier(self.columns[position]) for role, position in chosen.items()}
        selected = [f"{name} ->> '$' as {role}_value" for role, name in names.items()]
        selected += [f"json_type({name}) as {role}_json" for role, name in names.items() if role in IDS]
        columns = ", ".join(f"{name}: 'JSON'" for name in names.values())
        return (
            f"select {', '.join(selected)} from read_json({path_literal(path)}, columns = {{{columns}}}, "
            f"format = 'newline_delimited', compression = '{_compression(path)}', hive_partitioning = false)"
        )

    def place(self, row: int) -> str:
        number, _ = next(itertools.islice(self._lines(), row, None))
        return f"{self.name}, line {number}"

    def fault(self) -> str | None:
        try:
            for number, line in self._lines():
                if _json_object(line) is None:
                    found = text.shown(line.strip())
                    return f"{self.name}, line {number}: not a JSON object: {found}; write one object per line"
        except UnicodeError:
            return text.encoding_fault(self.name, self._encoding)
        except (EOFError, gzip.BadGzipFile) as error:
            return text.gzip_fault(self.name, error)
        return None

    def _lines(self) -> Iterator[tuple[int, str]]:
        with text.open_text(self.name, self._encoding) as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _compression(path: str) -> str:
    return "gzip" if text.is_gzipped(path) else "none"
