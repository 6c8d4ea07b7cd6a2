"""
Rows of figures in a folder: kept one by one while a run goes on, merged into what is published when it is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
# Rows are comparable on one machine with one number of threads; a newer row takes the place of the one with the same key.
KEYS = ("hardware", "threads", "dataset", "system", "seed")


def key_of(row: Row) -> str:
    return json.dumps([row.get(name) for name in KEYS], sort_keys=True)


class Results:
    """
    The rows of one kind of run, in `FOLDER/KIND.json`.

    A run collects its rows in `KIND.partial.json`; the same run, started again after a stop, goes on there.

    Args:
        folder (`Path`): Where results are kept.
        kind (`str`): Name of the files.
        settings (`dict`): What makes two runs the same.
        fresh (`bool`): Whether to forget what a stopped run has left.
    """

    def __init__(self, folder: Path, kind: str, settings: dict[str, Any], fresh: bool = False):
        self.path, self.partial = folder / f"{kind}.json", folder / f"{kind}.partial.json"
        self.settings = json.loads(json.dumps(settings, default=str))
        self.rows: list[Row] = []
        if self.partial.exists() and not fresh:
            left = json.loads(self.partial.read_text())
            self.rows = left["rows"] if left["settings"] == self.settings else []

    def find(self, **values: Any) -> Row | None:
        """The row of this run with these values."""
        return next((row for row in self.rows if all(row.get(name) == value for name, value in values.items())), None)

    def add(self, row: Row):
        """Keep a row of this run on disk. A row that says `error` is kept in memory alone: the next start tries again."""
        self.rows.append(row)
        kept = [row for row in self.rows if "error" not in row]
        _write(self.partial, {"settings": self.settings, "rows": kept})

    def finish(self) -> list[Row]:
        """Merge this run into the published rows and return them all."""
        rows = {key_of(row): row for row in self.published() + self.rows}
        _write(self.path, list(rows.values()))
        self.partial.unlink(missing_ok=True)
        return list(rows.values())

    def published(self) -> list[Row]:
        return json.loads(self.path.read_text()) if self.path.exists() else []


def _write(path: Path, content: Any):
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(path)
