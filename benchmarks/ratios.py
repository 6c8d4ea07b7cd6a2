"""
What the figures of one data set say about ours beside the others, and what was to be reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .results import Row
from .systems import PEERS

OTHERS = ("plain", *PEERS)


@dataclass(frozen=True)
class Target:
    """
    Args:
        name (`str`): What is compared.
        goals (`dict`): Data set -> what is to be reached; a data set that is not there is only reported.
        at_most (`bool`): Whether less is better.
    """

    name: str
    goals: dict[str, float]
    at_most: bool = False

    def verdict(self, dataset: str, value: float) -> str:
        """`reached` or `missed`; `reported` where nothing was to be reached."""
        if dataset not in self.goals:
            return "reported"
        goal = self.goals[dataset]
        return "reached" if (value <= goal if self.at_most else value >= goal) else "missed"


TARGETS = {
    "plain": Target("training, times faster than the plain BertForMaskedLM", {"ml-1m": 8, "beauty": 50}),
    "peer": Target("training, times faster than the fastest peer", {"ml-1m": 3.5, "beauty": 3.5}),
    "memory": Target("memory, share of the leanest peer's", {"ml-1m": 0.5, "beauty": 0.5}, at_most=True),
    "top_k": Target("top-10, times faster than the fastest other", {"ml-1m": 4, "beauty": 2.5}),
    "useful": Target("useful arithmetic, share of the machine's float32 rate", {"ml-1m": 0.5}),
    "bf16": Target("bf16 training, times faster than float32", {"ml-1m": 1, "beauty": 1}),
}


def memory_of(row: Row) -> float:
    """Bytes at the peak above those of the bare import."""
    return row["peak_bytes"] - row["import_bytes"]


def useful_share(row: Row) -> float:
    """Useful operations per second over what the machine does in a float32 matrix product."""
    return row["useful_operations"] / row["cpu_seconds_per_pass"] / row["matrix_rate"]["float32"]


def ratios(rows: Mapping[str, Row], ours: str = "ours") -> dict[str, tuple[float, str] | None]:
    r"""
    Each of `TARGETS` in the rows of one data set, machine and number of threads.

    Args:
        rows (mapping of system to row): Rows that failed are passed over.
        ours (`str`, *optional*, defaults to `"ours"`): Which variant of ours is held against the others.

    Returns:
        `dict`: name of the target -> its value and the system that ours was held against; `None` where a row is missing.
    """
    good = {name: row for name, row in rows.items() if "error" not in row}
    found: dict[str, tuple[float, str] | None] = dict.fromkeys(TARGETS)
    if ours not in good:
        return found
    own, seconds = good[ours], {name: row["cpu_seconds_per_pass"] for name, row in good.items()}
    found["useful"] = useful_share(own), "matrix product"
    if peers := [name for name in PEERS if name in good]:
        fastest = min(peers, key=lambda name: seconds[name])
        found["peer"] = seconds[fastest] / seconds[ours], fastest
        leanest = min(peers, key=lambda name: memory_of(good[name]))
        found["memory"] = memory_of(own) / memory_of(good[leanest]), leanest
    if others := [name for name in OTHERS if name in good]:
        quickest = max(others, key=lambda name: good[name]["users_per_cpu_second"])
        found["top_k"] = own["users_per_cpu_second"] / good[quickest]["users_per_cpu_second"], quickest
    if "plain" in good:
        found["plain"] = seconds["plain"] / seconds[ours], "plain"
    if (full := ours.replace("-bf16", "")) != ours and full in good:
        found["bf16"] = seconds[full] / seconds[ours], full
    return found
