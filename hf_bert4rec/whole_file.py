"""Files and folders that are whole or untouched."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# In the partial folder of a training, which a repeated command finishes.
OPTIONS_FILE = "options.json"


def check_output_file(path: Path):
    """Refuse a name that is a folder's, and make the folder that the file is to lie in: worth doing before the work begins."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file, such as {path / 'output.json'}.")
    path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name of the file once all is written."""
    check_output_file(path)
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


def check_replaceable(path: Path, *, overwrite: bool, inputs: tuple[str, ...]):
    """
    Refuse to replace what exists, unless that is asked for and it can be an earlier output: no file, no folder with folders
    in it, and none with a file that tells an input, such as prepared data or a model.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists; give another folder, or --overwrite_output_dir (overwrite=True) to replace it."
        )
    found = path.iterdir() if path.is_dir() else [path] if path.exists() else []
    for entry in found:
        if entry == path or entry.is_dir() or entry.name in inputs:
            raise FileExistsError(
                f"{path} is no earlier output of this command (it has {entry.name}), and stays; give another folder."
            )


def check_not_inside(path: Path, reads: Iterable[str | Path | None]):
    """Refuse to replace a folder that holds a file or folder that is read: it would be deleted with the folder."""
    for read in (read for read in reads if read is not None):
        found = [Path(read)] if Path(read).exists() else map(Path, glob.glob(str(read), recursive=True))
        if path.is_dir() and any(each.resolve().is_relative_to(path.resolve()) for each in found):
            raise FileExistsError(
                f"{path} holds {read}, which would be deleted with it, and stays; give another folder."
            )


@contextmanager
def whole_folder(
    path: Path,
    *,
    overwrite: bool = False,
    inputs: tuple[str, ...] = ("data.json", "config.json"),
    reads: Iterable[str | Path | None] = (),
) -> Iterator[Path]:
    """
    A folder to write into, which takes the name of the path once all is written; nothing is left of one that fails. What
    exists is refused before anything is made, unless it is to be replaced and may be, see [`check_replaceable`], and holds
    nothing that is read.
    """
    check_replaceable(path, overwrite=overwrite, inputs=inputs)
    check_not_inside(path, reads)
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
