"""
What is measured inside a launcher, in the same way for every system: steps, memory, recommendations, the machine's rate.

The step clock hangs on the optimiser, so it needs nobody's callbacks: a step lasts from one update of the weights to the
next, and holds whatever the system does in between (drawing a batch, masking, forward, backward, update).
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from .histories import Histories
from .task import TOP_K, WARMUP_STEPS, Task

MATRIX_SIZE = 1024
# Where a product takes long, as in bfloat16 without instructions for it, no more of them are begun after so many CPU seconds.
MATRIX_SECONDS = 2.0


class Launcher(Protocol):
    """
    One system behind the calls that are measured.

    Attributes:
        packages: What is installed and named with the figures.
        steps_per_pass: Steps of a pass over all users, one sequence each; a fraction where the last batch is small.
        filters_seen: Whether its public interface leaves out items that the user knows.
    """

    packages: tuple[str, ...]
    steps_per_pass: float
    filters_seen: bool

    def __init__(self, task: Task, histories: Histories): ...

    def train(self, num_steps: int) -> None:
        """Train for so many steps, or until the clock raises [`TimedEnough`]."""

    def get_ready(self, users: np.ndarray) -> None:
        """What comes before recommending and is not timed: loading the model, the users' histories in its own form."""

    def recommend(self) -> dict[Any, list[Any]]:
        """Raw user id -> raw ids of the ten best items."""

    def more_figures(self) -> dict[str, float]:
        """What only this system has to tell, measured at the end."""
        return {}


class TimedEnough(Exception):
    """Raised out of a training loop that has no end of its own."""


class StepClock:
    """CPU and wall seconds of each training step after the warm-up."""

    def __init__(self, num_steps: int):
        self.num_steps = num_steps
        self.times: list[tuple[float, float]] = []

    def __enter__(self) -> StepClock:
        self._hook = register_optimizer_step_post_hook(self._note)
        return self

    def __exit__(self, *_):
        self._hook.remove()

    def _note(self, *_):
        self.times.append((time.process_time(), time.perf_counter()))
        if len(self.times) > WARMUP_STEPS + self.num_steps:
            raise TimedEnough

    def seconds(self) -> tuple[list[float], list[float]]:
        """CPU seconds and wall seconds, one of each per step."""
        times = np.array(self.times[WARMUP_STEPS - 1 : WARMUP_STEPS + self.num_steps])
        if len(times) < 2:
            raise ValueError(
                f"{len(self.times)} steps were taken, {WARMUP_STEPS} of them to warm up; take more steps."
            )
        cpu, wall = np.diff(times, axis=0).T
        return cpu.tolist(), wall.tolist()


def peak_memory() -> int:
    """Bytes: the most this process ever had resident. `ru_maxrss` would begin with what the parent had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM; memory is measured on Linux only.")


def matrix_rate(dtype: torch.dtype, repeats: int = 15) -> float:
    """
    Operations per CPU second of a square matrix product, the median of some, of fewer where one takes long: what this machine
    can do right now.
    """
    left, right = torch.randn(2, MATRIX_SIZE, MATRIX_SIZE).to(dtype)
    left @ right
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < MATRIX_SECONDS:
        start = time.process_time()
        left @ right
        seconds.append(time.process_time() - start)
    return 2 * MATRIX_SIZE**3 / statistics.median(seconds)


def check_lists(lists: dict[Any, list[Any]], histories: Histories, users: np.ndarray, filters_seen: bool):
    r"""
    Raises:
        ValueError: If a user has no list, or not ten different items of the catalogue, or one that the user knows.
    """
    known, catalogue = histories.without_last(1), set(histories.items.tolist())
    for user in users:
        found = [int(item) for item in lists.get(histories.user_ids[user].item(), ())]
        if len(set(found)) != TOP_K or not catalogue.issuperset(found):
            raise ValueError(f"User {histories.user_ids[user]} was recommended {found}, not {TOP_K} different items.")
        if filters_seen and set(known[user].tolist()) & set(found):
            raise ValueError(f"User {histories.user_ids[user]} was recommended items that were seen before: {found}.")


def _measured(launcher_class: type[Launcher], task: Task) -> dict[str, Any]:
    """Train, recommend, and say what it took."""
    rates = {"float32": [matrix_rate(torch.float32)], "bfloat16": [matrix_rate(torch.bfloat16)]}
    histories = Histories.load(task.histories)
    launcher = launcher_class(task, histories)
    num_steps = task.steps_of(histories.num_users)
    with StepClock(num_steps) as clock, contextlib.suppress(TimedEnough):
        launcher.train(WARMUP_STEPS + num_steps)
    cpu, wall = clock.seconds()
    training_memory = peak_memory()
    users = histories.sampled_users(task.num_users)
    launcher.get_ready(users)
    start = time.process_time(), time.perf_counter()
    lists = launcher.recommend()
    taken = time.process_time() - start[0], time.perf_counter() - start[1]
    memory = peak_memory()
    check_lists(lists, histories, users, launcher.filters_seen)
    rates["float32"].append(matrix_rate(torch.float32))
    rates["bfloat16"].append(matrix_rate(torch.bfloat16))
    return {
        "cpu_seconds_per_pass": float(np.mean(cpu)) * launcher.steps_per_pass,
        "wall_seconds_per_pass": float(np.mean(wall)) * launcher.steps_per_pass,
        "step_cpu_seconds": [round(seconds, 5) for seconds in cpu],
        "users_per_cpu_second": len(users) / taken[0],
        "users_per_wall_second": len(users) / taken[1],
        "num_users": len(users),
        "filters_seen": launcher.filters_seen,
        "peak_training_bytes": training_memory,
        "peak_bytes": memory,
        "matrix_rate": {name: statistics.mean(found) for name, found in rates.items()},
        "versions": {name: version(name) for name in ("torch", "numpy", *launcher.packages)},
        **launcher.more_figures(),
    }


def main(launcher_class: type[Launcher]):
    """
    Entry of a launcher: `TASK RESULT` measures, `RESULT` alone says what importing the same packages takes.

    A module that is run as a launcher has imported everything it needs at its top.
    """
    *task, result = sys.argv[1:]
    if not task:
        found: dict[str, Any] = {"import_bytes": peak_memory()}
    else:
        given = Task.read(task[0])
        torch.set_num_threads(given.num_threads)
        found = _measured(launcher_class, given)
    Path(result).write_text(json.dumps(found))
