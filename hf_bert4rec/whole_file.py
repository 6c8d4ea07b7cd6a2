"""Files that are whole or untouched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name of the file once all is written."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole_file(path: Path, text: str):
    """The file is whole or untouched."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
