"""Files and folders that are whole or untouched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# In the partial folder of a training, which a repeated command finishes.
OPTIONS_FILE = "options.json"


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


@contextmanager
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """
    A folder to write into, which takes the name of the path once all is written; nothing is left of one that fails. What
    exists is refused before anything is made, unless it is to be replaced.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; give another folder, or --overwrite_output_dir to replace it.")
    partial = path.with_name(path.name + ".partial")
    if (partial / OPTIONS_FILE).exists():
        raise FileExistsError(f"{partial} is an unfinished training; finish it, or give another folder.")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
