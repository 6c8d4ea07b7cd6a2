"""
Starts a launcher in its environment and makes a row of figures of what it found, with all that is needed to repeat it.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_bert4rec.run_record import checkout_commit, hardware

from . import task as sizes
from .arithmetic import useful_operations
from .datasets import DATASETS, prepared_histories
from .histories import Histories
from .systems import SYSTEMS, python_of
from .task import Task

ROOT = Path(__file__).resolve().parent.parent
SPECIAL_TOKENS = 3  # padding, [MASK] and unknown item have a score too
THREAD_VARIABLES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")


class LauncherFailed(Exception):
    """A launcher ended without a result; says why in one line."""


@dataclass(frozen=True)
class Options:
    """
    What all systems of a run have in common.

    Args:
        data (`Path`, *optional*): Folder of the logs.
        peers_dir (`Path`): Folder of environments, converted logs and what launchers print.
        threads (`int`): Threads of each system.
        steps (`int`, *optional*): Timed training steps; by default what each system needs for a fair figure.
        users (`int`): For how many users items are recommended.
    """

    data: Path | None
    peers_dir: Path
    threads: int = 1
    steps: int | None = None
    users: int = 6040


def commit() -> str:
    """The commit that is measured, with a `+` where what runs was changed since."""
    return checkout_commit(ROOT, "hf_bert4rec", "benchmarks", ":!benchmarks/results") or "unknown"


def command_of(mode: str, **options: Any) -> str:
    """The command that makes one row again."""
    words = ["python", "-m", "benchmarks", mode]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    return shlex.join(words)


def launch(python: Path, launcher: str, options: Options, log: Path, task: Task | None = None) -> dict[str, Any]:
    r"""
    Run a launcher to its end in a process of its own.

    Args:
        python (`Path`): Interpreter of its environment.
        launcher (`str`): Module in `benchmarks/launchers`.
        options ([`Options`]): Of the run.
        log (`Path`): Where what it prints goes.
        task ([`Task`], *optional*): What to measure; `None`: only the memory of its imports.

    Returns:
        `dict`: what it found.

    Raises:
        LauncherFailed: If it ends without a result.
    """
    environment = os.environ | {f"{name}_NUM_THREADS": str(options.threads) for name in THREAD_VARIABLES}
    environment |= {"POLARS_MAX_THREADS": str(options.threads), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("w") as output:
        result = Path(folder) / "result.json"
        arguments = [str(result)]
        if task is not None:
            task.write(Path(folder) / "task.json")
            arguments.insert(0, str(Path(folder) / "task.json"))
        command = [str(python), "-m", f"benchmarks.launchers.{launcher}", *arguments]
        ended = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if ended.returncode or not result.exists():
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            why = lines[-1] if ended.returncode > 0 and lines else f"exit code {ended.returncode}"
            raise LauncherFailed(f"{why} (the rest is in {log})")
        return json.loads(result.read_text())


def prepared_task(dataset: str, options: Options, num_steps: int | None, variant: dict[str, Any]) -> Task:
    """The task of a launcher on a data set, whose histories are made where they are missing."""
    folder = options.peers_dir.absolute() / "data"
    histories = prepared_histories(dataset, options.data, folder)
    return Task(
        histories=str(histories),
        folder=str(folder / dataset),
        max_length=DATASETS[dataset].max_length,
        num_threads=options.threads,
        num_steps=num_steps,
        num_users=options.users,
        variant=variant,
    )


def provenance(**named: Any) -> dict[str, Any]:
    """What stands beside every figure, whatever it is."""
    now = datetime.datetime.now(datetime.UTC)
    return {**named, "hardware": hardware(), "commit": commit(), "date": now.strftime("%Y-%m-%d %H:%M UTC")}


def measure(dataset: str, name: str, options: Options) -> dict[str, Any]:
    r"""
    Measure one system on one data set.

    Args:
        dataset (`str`): A key of `DATASETS`.
        name (`str`): A key of `SYSTEMS`.
        options ([`Options`]): Of the run.

    Returns:
        `dict`: a row, see `README.md`.

    Raises:
        LauncherFailed: If the system does not come to its end; in one line.
    """
    system = SYSTEMS[name]
    steps = options.steps or system.num_steps
    task = prepared_task(dataset, options, steps, system.variant)
    try:
        python = python_of(system, options.peers_dir)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines() or [str(error)]
        raise LauncherFailed(f"its environment cannot be made: {lines[-1]}") from error
    logs = options.peers_dir.absolute() / "logs"
    bare = launch(python, system.launcher, options, logs / f"{name}-import.txt")
    found = launch(python, system.launcher, options, logs / f"{dataset}-{name}.txt", task)
    of_run = {"threads": options.threads, "users": options.users}
    command = command_of("speed", systems=name, datasets=dataset, steps=options.steps, **of_run)
    row = provenance(dataset=dataset, system=name, command=command, threads=options.threads)
    return {**row, **found, **bare, "useful_operations": _useful_operations(task)}


def _useful_operations(task: Task) -> float:
    histories = Histories.load(task.histories)
    return useful_operations(
        np.minimum(np.diff(histories.offsets) - 2, task.max_length),
        histories.num_items + SPECIAL_TOKENS,
        mlm_probability=sizes.MLM_PROBABILITY,
        hidden_size=sizes.HIDDEN_SIZE,
        intermediate_size=sizes.INTERMEDIATE_SIZE,
        num_hidden_layers=sizes.NUM_LAYERS,
    )
