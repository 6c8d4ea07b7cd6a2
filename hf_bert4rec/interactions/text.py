"""
Logs kept as delimited text: the separator, whether the first line names the columns, and which line is at fault.

The engine reads the log. This module looks at its first lines and, once something is wrong, reads the file to find the
line that a person has to open.

*Source:* RFC 4180 for quoted fields; MovieLens' `.dat` files for two colons as separator and text without quotes.

*Differences:* quotes mean something only between commas, semicolons and tabs; with `|`, `::`, a space and any other
separator every character stands for itself. Blank lines are skipped wherever they are.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SEPARATORS = ("::", "\t", ",", ";", "|", " ")
QUOTED_SEPARATORS = (",", ";", "\t")
UTF8 = "utf-8-sig"
# The engine takes no longer ones.
MAX_SEPARATOR_BYTES = 4
NUM_LINES_LOOKED_AT = 50
# How files begin that are no text in the encoding of the others, and what to do with them.
SIGNATURES = {
    b"\x1f\x8b": "a gzip file: give it a name that ends in .gz",
    b"PAR1": "a Parquet file: give it a name that ends in .parquet",
    b"PK\x03\x04": "a zip file: unpack it",
    b"\xff\xfe\x00\x00": "UTF-32 text: give its encoding, utf-32",
    b"\xff\xfe": "UTF-16 text: give its encoding, utf-16",
    b"\xfe\xff": "UTF-16 text: give its encoding, utf-16",
}


@dataclass(frozen=True)
class TextFormat:
    """How a text file is cut into fields."""

    separator: str
    encoding: str
    has_header: bool
    num_columns: int

    @property
    def is_quoted(self) -> bool:
        """Whether a field may stand between double quotes."""
        return self.separator in QUOTED_SEPARATORS


def python_encoding(name: str) -> str:
    """
    Python's own name of an encoding; for UTF-8 the variant that drops a byte order mark.

    Raises:
        ValueError: If there is no such encoding.
    """
    try:
        found = codecs.lookup(name).name
        "".encode(found).decode(found)  # some turn text into text, or bytes into bytes
    except LookupError:
        raise ValueError(f"unknown encoding {name!r}: give one that Python knows, such as utf-8 or latin-1") from None
    return UTF8 if found in ("utf-8", "ascii") else found


def is_gzipped(path: str) -> bool:
    """By its name, in small letters or capitals."""
    return path.lower().endswith(".gz")


def kind_of(path: str) -> str:
    """The suffix that tells the format, in small letters: that before `.gz` of a gzipped file."""
    return Path(path[: -len(".gz")] if is_gzipped(path) else path).suffix.lower()


def open_text(path: str, encoding: str, newline: str | None = None) -> IO[str]:
    """Open a text file, gzipped or not."""
    opener: Any = gzip.open if is_gzipped(path) else open
    return opener(path, "rt", encoding=encoding, newline=newline)


def open_bytes(path: str) -> IO[bytes]:
    """Open a file as bytes, gzipped or not."""
    opener: Any = gzip.open if is_gzipped(path) else open
    return opener(path, "rb")


def split_records(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """
    Yields the line number of each record (of its first line, from 1) and its fields; blank lines are skipped.

    Raises:
        ValueError: If quotes do not close.
    """
    if separator not in QUOTED_SEPARATORS:
        for number, line in enumerate(lines, start=1):
            if line := line.rstrip("\r\n"):
                yield number, line.split(separator)
        return
    reader = csv.reader(lines, delimiter=separator, strict=True)
    number = 1
    try:
        for fields in reader:
            if fields:
                yield number, fields
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {number}: {error}") from None


def read_records(path: str, text_format: TextFormat) -> Iterator[tuple[int, list[str]]]:
    """The records of a file below its header, with their line numbers."""
    with open_text(path, text_format.encoding, newline="") as file:
        yield from itertools.islice(split_records(file, text_format.separator), int(text_format.has_header), None)


def first_lines(path: str, encoding: str) -> tuple[int, list[str]]:
    """
    The number of blank lines before the first one that is not, and the first of those that are not blank.

    Raises:
        ValueError: If there is none, or if the file cannot be unpacked or decoded.
    """
    try:
        with open_text(path, encoding) as file:
            numbered = ((number, line) for number, line in enumerate(file) if line.strip("\r\n"))
            found = list(itertools.islice(numbered, NUM_LINES_LOOKED_AT))
    except UnicodeError:
        raise ValueError(encoding_fault(path, encoding)) from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(gzip_fault(path, error)) from None
    if not found:
        raise ValueError(f"{path} is empty: give a log with at least one event")
    return found[0][0], [line for _, line in found]


def find_separator(path: str, lines: list[str], wanted: str | None) -> str:
    """
    The separator asked for, or the first of the usual ones that cuts all lines looked at into the same number of
    fields.

    Raises:
        ValueError: If it is not in the first line.
    """
    if wanted is not None:
        separator = {"\\t": "\t", "tab": "\t", "space": " "}.get(wanted, wanted)
        if len(separator.encode()) > MAX_SEPARATOR_BYTES:
            raise ValueError(
                f"separator {wanted!r} is longer than {MAX_SEPARATOR_BYTES} bytes: write the log with a shorter one"
            )
        if separator and separator in lines[0]:
            return separator
        raise ValueError(f"separator {wanted!r} is not in the first line of {path} ({shown(lines[0])}): give another")
    present = [separator for separator in SEPARATORS if separator in lines[0]]
    usual = {".csv": ",", ".tsv": "\t"}.get(kind_of(path))
    present.sort(key=lambda separator: separator != usual)
    for separator in present:
        if len({len(fields) for fields in first_fields(lines, separator)}) == 1:
            return separator
    if present:
        return present[0]
    raise ValueError(f"no separator (, ; | :: tab or space) in the first line of {path}: {shown(lines[0])}; give one")


def find_header(lines: list[str], separator: str, known_names: set[str]) -> bool:
    """
    Whether the first line names columns: one of its fields is a known name (as `plain_name` gives it), or none of them
    is a number while all fields below one of them are.
    """
    head, *rows = first_fields(lines, separator)
    if any(plain_name(field) in known_names for field in head):
        return True
    if any(_is_number(field) for field in head):
        return False
    return any(all(_is_number(field) for field in column) for column in zip(*rows, strict=False))


def plain_name(name: str) -> str:
    """A column name without case, punctuation and type: `userid` for `userId`, `user_id` and `user_id:token`."""
    return "".join(letter for letter in name.partition(":")[0].lower() if letter.isalnum())


def first_fields(lines: list[str], separator: str) -> list[list[str]]:
    """The fields of the lines looked at, as far as they can be told."""
    found = []
    try:
        for _, fields in split_records(lines, separator):
            found.append([field.strip() for field in fields])
    except ValueError:
        # Quotes that close below the lines looked at, or never: whoever reads the whole file will judge.
        pass
    return found


def record_fault(path: str, text_format: TextFormat) -> str | None:
    """One line on the first record that is not as the format says, or `None` if all are. Reads the file."""
    try:
        for number, fields in read_records(path, text_format):
            if len(fields) != text_format.num_columns:
                return (
                    f"{path}, line {number}: {len(fields)} columns where {text_format.num_columns} were expected "
                    f"({shown(text_format.separator.join(fields))}): correct the line, or give the right separator"
                )
    except UnicodeError:
        return encoding_fault(path, text_format.encoding)
    except (EOFError, gzip.BadGzipFile) as error:
        return gzip_fault(path, error)
    except ValueError as error:
        return f"{path}, {error}; correct the line"
    return None


def record_line(path: str, text_format: TextFormat, row: int) -> int:
    """Line number of the record with index `row` (from 0). Reads the file up to there."""
    return next(itertools.islice(read_records(path, text_format), row, None))[0]


def encoding_fault(path: str, encoding: str) -> str:
    """One line on a file that is not what its name says, or on its first line that cannot be decoded."""
    where = ""
    with open_bytes(path) as file:
        start = file.read(4)
        file.seek(0)
        for signature, advice in SIGNATURES.items():
            if start.startswith(signature) and not encoding.startswith(("utf-16", "utf-32")):
                return f"{path} is {advice}"
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeError:
                # A line of these encodings does not end with the byte of a line feed.
                where = "" if encoding.startswith(("utf-16", "utf-32")) else f", line {number}"
                break
    return f"{path}{where} is not {encoding.removesuffix('-sig')} text: give its encoding, such as latin-1"


def gzip_fault(path: str, error: Exception) -> str:
    """One line on a file that cannot be unpacked."""
    return f"{path} is not a whole gzip file ({error}): fetch or pack it again"


def utf8_path(path: str, encoding: str, copy: Path) -> str:
    """
    A path under which the text is UTF-8 without a byte order mark: the file itself or a copy of it, line for line.

    Raises:
        ValueError: If the file cannot be decoded.
    """
    if encoding == UTF8:
        with open_bytes(path) as file:
            if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                return path
    try:
        with open_text(path, encoding, newline="") as source, copy.open("w", encoding="utf-8", newline="") as target:
            while block := source.read(1 << 20):
                target.write(block)
    except UnicodeError:
        raise ValueError(encoding_fault(path, encoding)) from None
    return str(copy)


def shown(line: str) -> str:
    """A line, or its beginning, for a message."""
    line = line.rstrip("\r\n")
    return repr(line if len(line) <= 80 else line[:77] + "...")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
