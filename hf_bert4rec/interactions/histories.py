"""
The folder that a prepared log becomes: written in one pass over sorted events, read back memory-mapped.

*Source:* leave-one-out as in Sun et al., "BERT4Rec" (CIKM 2019), section 4.2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FORMAT = "hf_bert4rec-data"
VERSION = 1
DATA_FILES = ("items.parquet", "users.parquet", "events.npy", "data.json")
MIN_EVENTS_TO_EVALUATE = 3
HASHED_AT_ONCE = 1 << 16
USERS_SCHEMA = pa.schema(
    [("user_id", pa.string())]
    + [(name, pa.int64()) for name in ("num_events", "train_end", "validation_target", "test_target")]
)


class InteractionData:
    """
    A prepared log: every user's history as item indices in order of time, and which part of it is for training,
    validation and test.

    Events `0 .. train_end - 1` of a history may be trained on; for a target at position `p` a model sees the events
    `0 .. p - 1`.

    Attributes:
        folder (`Path`): Where it lies.
        metadata (`dict`): Options and report of `prepare`.
        item_ids (`pa.StringArray` of length `num_items`): Item id of each item index.
        titles (`pa.StringArray` of length `num_items` or `None`): Titles, null where unknown; `None` without any.
        user_ids (`pa.StringArray` of length `num_users`): User ids in ascending order.
        events (`np.memmap` of shape `(num_events,)`, int32): Item indices, one user after another.
        offsets (`np.ndarray` of shape `(num_users + 1,)`, int64): Where each user's events begin.
        train_end, validation_target, test_target (`np.ndarray` of shape `(num_users,)`, int64): Positions inside a
            user's history, -1 for none.
    """

    def __init__(self, folder: Path, metadata: dict[str, Any]):
        self.folder, self.metadata = folder, metadata
        items, users = pq.read_table(folder / "items.parquet"), pq.read_table(folder / "users.parquet")
        self.item_ids = _whole(items["item_id"])
        self.titles = _whole(items["title"]) if "title" in items.column_names else None
        self.user_ids = _whole(users["user_id"])
        self.offsets = np.concatenate([[0], np.cumsum(users["num_events"].to_numpy(), dtype=np.int64)]).astype(
            np.int64
        )
        self.train_end, self.validation_target, self.test_target = (
            users[name].to_numpy() for name in USERS_SCHEMA.names[2:]
        )
        self.events = np.load(folder / "events.npy", mmap_mode="r")

    @property
    def num_users(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_events(self) -> int:
        return len(self.events)

    @property
    def item_id_type(self) -> str:
        """`"int"` if the log held integers, else `"str"`."""
        return self.metadata["item_id_type"]

    def user_index(self, user_id: str | int) -> int:
        """
        Index of a user.

        Raises:
            ValueError: If the log has no such user.
        """
        wanted, low, high = str(user_id), 0, self.num_users
        while low < high:
            middle = (low + high) // 2
            if self.user_ids[middle].as_py() < wanted:
                low = middle + 1
            else:
                high = middle
        if low == self.num_users or self.user_ids[low].as_py() != wanted:
            raise ValueError(
                f"{self.folder} has no user {wanted!r}: give one of its {self.num_users} users (filters may have dropped it)"
            )
        return low

    def history(self, user: int, end: int | None = None) -> np.ndarray:
        """
        Item indices of a user's events, oldest first.

        Args:
            user (`int`): Index of the user.
            end (`int`, *optional*): Only the events before this position; all by default.

        Returns:
            `np.ndarray` of shape `(end,)`, int32.
        """
        start, stop = self.offsets[user], self.offsets[user + 1]
        return self.events[start : stop if end is None else min(stop, start + end)]

    def content_hash(self) -> str:
        r"""
        SHA-256 of what a model learns from and is measured on: item ids in their order, user ids, histories and split. The
        same on every machine and for every file format of the log; titles and options do not count.

        Returns:
            `str`: 64 hexadecimal digits.
        """
        digest = hashlib.sha256()
        for ids in (self.item_ids, self.user_ids):
            digest.update(f"{len(ids)}\n".encode())
            for start in range(0, len(ids), HASHED_AT_ONCE):
                some = ids[start : start + HASHED_AT_ONCE].to_pylist()
                digest.update("".join(json.dumps(name) + "\n" for name in some).encode())
        for positions in (self.offsets, self.train_end, self.validation_target, self.test_target):
            digest.update(np.ascontiguousarray(positions, dtype="<i8").tobytes())
        for start in range(0, len(self.events), HASHED_AT_ONCE):
            digest.update(self.events[start : start + HASHED_AT_ONCE].astype("<i4").tobytes())
        return digest.hexdigest()

    def report_text(self) -> str:
        """What was read, dropped and left, in a few lines."""
        return report_text(self.metadata["report"])

    def __repr__(self) -> str:
        sizes = f"{self.num_users} users, {self.num_items} items, {self.num_events} events"
        return f"InteractionData({str(self.folder)!r}: {sizes})"


def load_data(folder: str | Path) -> InteractionData:
    """
    Open a folder that `prepare` wrote.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it was not written by `prepare`, or not completely.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no folder {folder}: make it with prepare")
    metadata = read_metadata(folder)
    if metadata is None:
        raise ValueError(
            f"{folder} is not a folder of prepared interactions (no data.json of format {FORMAT}): make one with prepare"
        )
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"{folder} is of version {metadata.get('version')} where {VERSION} can be read: prepare the log again"
        )
    try:
        data = InteractionData(folder, metadata)
    except (OSError, ValueError, KeyError, EOFError, pa.ArrowException) as error:
        raise ValueError(f"{folder} is incomplete ({str(error).splitlines()[0]}): prepare the log again") from None
    found = {"num_users": data.num_users, "num_items": data.num_items, "num_events": data.num_events}
    if any(metadata.get(name) != number for name, number in found.items()) or data.offsets[-1] != data.num_events:
        raise ValueError(f"{folder} does not hold what its data.json says (found {found}): prepare the log again")
    return data


def read_metadata(folder: Path) -> dict[str, Any] | None:
    """`data.json` of a folder, or `None` where there is none of ours."""
    try:
        metadata = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metadata if isinstance(metadata, dict) and metadata.get("format") == FORMAT else None


def write_items(folder: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write `items.parquet` from rows `(item_id, num_events[, title])` in the order of the item indices."""
    writer = None
    for batch in batches:
        writer = writer or pq.ParquetWriter(folder / "items.parquet", batch.schema)
        writer.write_batch(batch)
    if writer is not None:
        writer.close()


def write_events(folder: Path, batches: Iterable[pa.RecordBatch], num_events: int) -> None:
    """Write `events.npy` from a column of item indices. (The pages of a memory map would count as memory in use.)"""
    with (folder / "events.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": (num_events,)})
        for batch in batches:
            file.write(batch.column(0).to_numpy())


def split_positions(
    num_events: np.ndarray, before: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Where training ends and the targets stand in each history.

    Args:
        num_events (`np.ndarray` of shape `(num_users,)`): Lengths of the histories.
        before (`tuple` of two `np.ndarray` of shape `(num_users,)`, *optional*): Numbers of events before the
            validation and before the test period; without them the split is leave-one-out.

    Returns:
        `tuple` of three `np.ndarray` of shape `(num_users,)`: `train_end`, `validation_target`, `test_target`; -1 for
        no target. A target has at least one event before it, and users with fewer than three events have none.
    """
    can_be_evaluated = num_events >= MIN_EVENTS_TO_EVALUATE
    if before is None:
        train_end = np.where(can_be_evaluated, num_events - 2, num_events)
        return (
            train_end,
            np.where(can_be_evaluated, num_events - 2, -1),
            np.where(can_be_evaluated, num_events - 1, -1),
        )
    before_validation, before_test = before
    has_validation = can_be_evaluated & (before_validation > 0) & (before_validation < before_test)
    has_test = can_be_evaluated & (before_test > 0) & (before_test < num_events)
    return before_validation, np.where(has_validation, before_validation, -1), np.where(has_test, before_test, -1)


def write_users(folder: Path, batches: Iterable[pa.RecordBatch], num_items: int) -> dict[str, int]:
    """
    Write `users.parquet` from rows `(user_id, num_events[, before_validation, before_test])`, in the order of the
    events.

    Returns:
        `dict[str, int]`: sizes of the split, and how many targets are items without a training event.
    """
    counts = {name: np.zeros(num_items, dtype=np.int64) for name in ("training", "validation", "test")}
    sizes = {"users_evaluated": 0, "users_train_only": 0, "users_unused": 0}
    with (
        pq.ParquetWriter(folder / "users.parquet", USERS_SCHEMA) as writer,
        (folder / "events.npy").open("rb") as file,
    ):
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        for batch in batches:
            num_events = batch.column("num_events").to_numpy()
            has_cuts = "before_test" in batch.schema.names
            before = (
                (batch.column("before_validation").to_numpy(), batch.column("before_test").to_numpy())
                if has_cuts
                else None
            )
            positions = split_positions(num_events, before)
            events = np.fromfile(file, dtype=np.int32, count=int(num_events.sum()))
            starts = np.cumsum(num_events) - num_events
            is_training = np.arange(len(events)) - np.repeat(starts, num_events) < np.repeat(positions[0], num_events)
            counts["training"] += np.bincount(events[is_training], minlength=num_items)
            for name, target in (("validation", positions[1]), ("test", positions[2])):
                counts[name] += np.bincount(events[(starts + target)[target >= 0]], minlength=num_items)
            is_evaluated = (positions[1] >= 0) | (positions[2] >= 0)
            sizes["users_evaluated"] += int(is_evaluated.sum())
            sizes["users_train_only"] += int((~is_evaluated & (positions[0] > 0)).sum())
            sizes["users_unused"] += int((~is_evaluated & (positions[0] == 0)).sum())
            columns = [batch.column("user_id"), *(pa.array(array, pa.int64()) for array in (num_events, *positions))]
            writer.write_batch(pa.record_batch(columns, schema=USERS_SCHEMA))
    is_cold = counts["training"] == 0
    sizes["training_events"] = int(counts["training"].sum())
    for name in ("validation", "test"):
        sizes[f"{name}_users"] = int(counts[name].sum())
        sizes[f"cold_{name}_targets"] = int(counts[name][is_cold].sum())
    return sizes


def report_text(report: dict[str, Any]) -> str:
    """The report of `prepare` in a few lines."""
    columns = ", ".join(f"{role} = {name!r}" for role, name in report["columns"].items())
    lines = [
        f"columns: {columns}"
        + ("" if "time" in report["columns"] else "; no time column: the order of the log is the order in time")
    ]
    lines.append(f"read: {_amounts(report['read'])}")
    for name, dropped in report["dropped"].items():
        lines.append(
            f"dropped by {dropped['option']}: {_amounts(dropped)}"
            + (f", in {len(dropped['counts'])} counts" if name == "core" else "")
        )
    lines.append(f"left: {_amounts(report['left'])}")
    split = report["split"]
    lines.append(
        f"split {split['name']}: {split['training_events']:,} training events, {split['validation_users']:,} validation "
        f"targets ({split['cold_validation_targets']:,} of them never in training), {split['test_users']:,} test targets "
        f"({split['cold_test_targets']:,} never in training), {split['users_train_only']:,} users in training only"
        # Of a user whose events are all within the periods of validation and test nothing is read.
        + (f", {split['users_unused']:,} in no part" if split.get("users_unused") else "")
    )
    if not (split["validation_users"] and split["test_users"]):
        remedy = (
            ", one in the part and one before: give other shares" if "test_from" in split else ": give more events"
        )
        lines.append(f"not every part has targets: a user with one has three events or more{remedy}")
    if "test_from" in split:
        lines.append(f"validation from {split['validation_from']}, test from {split['test_from']}")
    if "titles" in report:
        lines.append(
            f"titles: {report['titles']['items_with_title']:,} items with one, "
            f"{report['titles']['items_without_title']:,} without"
        )
    return "\n".join(lines)


def _amounts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{counts[name]:,} {name}" for name in ("events", "users", "items"))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pc.cast(column, pa.string()).combine_chunks() if column.num_chunks != 1 else column.chunk(0)
