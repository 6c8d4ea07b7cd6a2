"""
The record of a run, `run.json`: facts alone, enough to repeat the run and to write its model card.

*Source:* what reproductions of BERT4Rec found missing in the papers (Petrov & Macdonald, "A Systematic Review and
Replicability Study of BERT4Rec", RecSys 2022): seeds, versions, the data itself and how long was trained.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from .energy import EnergyMeter, total_energy
from .interactions import InteractionData, InteractionOptions
from .run_folder import RECORD_FORMAT
from .whole_file import write_whole_file

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy")
SOURCE = Path(__file__).resolve().parent.parent


class RunClock(TrainerCallback):
    r"""
    Counts time, memory and, with a meter, energy of a run over all its starts, in a file beside the checkpoints: a stop loses
    what came after the last log, an evaluation or a few steps.

    Args:
        file (`Path`): JSON with one entry for each start, those of earlier starts included.
    """

    def __init__(self, file: Path):
        self.file = file
        self.earlier: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
        self.begun = time.perf_counter(), cpu_seconds()
        now = datetime.datetime.now(datetime.UTC)
        self.session: dict[str, Any] = {"started": now.strftime("%Y-%m-%d %H:%M UTC")}
        self.session |= {"hardware": hardware(), "versions": versions()}
        self.meter: EnergyMeter | None = None

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """All starts of the run, this one last."""
        return [*self.earlier, self.session]

    def on_train_begin(self, args, state, control, **kwargs):
        self.session |= {"first_step": state.global_step, "threads": torch.get_num_threads()}
        names = [] if args.device.type == "cpu" else [_accelerator(args.device)] * args.world_size
        self.session["accelerators"] = names
        self._note(state)

    def on_log(self, args, state, control, **kwargs):
        if self.meter is not None:
            self.meter.read()
        self._note(state)

    def on_train_end(self, args, state, control, **kwargs):
        self._note(state)

    def _note(self, state):
        self.session |= {
            "last_step": state.global_step,
            "wall_seconds": round(time.perf_counter() - self.begun[0], 1),
            "cpu_seconds": round(cpu_seconds() - self.begun[1], 1),
            "peak_memory_bytes": peak_memory(),
        }
        if self.meter is not None and self.meter.measured is not None:
            self.session["energy"] = self.meter.measured
        if torch.cuda.is_available():
            self.session["peak_accelerator_bytes"] = torch.cuda.max_memory_allocated()
        if state.is_world_process_zero:
            write_whole_file(self.file, json.dumps(self.sessions))


def run_record(
    trainer: Trainer, data: InteractionData, options: dict[str, Any], sequence_options: Any, clock: RunClock
) -> dict[str, Any]:
    r"""
    The record of a finished run. Of paths it keeps the last part: the folders of a machine are nobody's business.

    Args:
        trainer (`Trainer`): What has trained.
        data ([`InteractionData`]): What it was trained on.
        options (`dict`): The options given to [`train`].
        sequence_options ([`SequenceOptions`]): The sequence options of the run, defaults included.
        clock ([`RunClock`]): What was counted. Seconds and memory are those of the first process.

    Returns:
        `dict`: the content of `run.json`.
    """
    state, arguments, energy = trainer.state, trainer.args, total_energy(clock.sessions)
    output_dir, options = Path(arguments.output_dir).name.removesuffix(".partial"), _without_folder(options)
    return {
        "format": RECORD_FORMAT,
        "commands": [prepare_command(data), train_command(data, output_dir, options)],
        "options": options,
        "seed": arguments.seed,
        "data": _without_folders(data.metadata),
        "data_hash": data.content_hash(),
        "sequence_options": dataclasses.asdict(sequence_options),
        "training_arguments": arguments.to_dict() | {"output_dir": output_dir},
        "num_parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "global_step": state.global_step,
        "best_step": state.best_global_step,
        "best_metric": state.best_metric,
        "log_history": state.log_history,
        "wall_seconds": round(sum(session["wall_seconds"] for session in clock.sessions), 1),
        "cpu_seconds": round(sum(session["cpu_seconds"] for session in clock.sessions), 1),
        **({} if energy is None else {"energy": energy}),
        "sessions": clock.sessions,
        "hardware": clock.session["hardware"],
        "versions": clock.session["versions"],
        "num_processes": arguments.world_size,
        "device": str(arguments.device),
    }


def prepare_command(data: InteractionData) -> str:
    """The command that prepares this data again, with the options that are not the default."""
    given = _without_folders(data.metadata)
    defaults = dataclasses.asdict(InteractionOptions())
    options = {name: value for name, value in given["options"].items() if value != defaults.get(name)}
    words = ["hf-bert4rec", "prepare", given["report"]["log"], "--output_dir", data.folder.name]
    return shlex.join(words + _flags(options))


def train_command(data: InteractionData, output_dir: str, options: dict[str, Any]) -> str:
    """The command that trains again on prepared data."""
    of_the_log = {field.name for field in dataclasses.fields(InteractionOptions)}
    given = {name: value for name, value in options.items() if name not in of_the_log}
    return shlex.join(["hf-bert4rec", "train", data.folder.name, "--output_dir", output_dir, *_flags(given)])


def _flags(options: dict[str, Any]) -> list[str]:
    words = []
    for name, value in options.items():
        words.append(f"--{name}")
        if value is not True:
            words.append(str(value) if isinstance(value, (str, Path)) else json.dumps(value, default=str))
    return words


def _without_folders(metadata: dict[str, Any]) -> dict[str, Any]:
    """What `prepare` noted, with the names of files instead of their paths."""
    report = metadata["report"] | {"log": Path(metadata["report"]["log"]).name}
    if "titles" in report:
        report["titles"] = report["titles"] | {"log": Path(report["titles"]["log"]).name}
    return metadata | {"options": _without_folder(metadata["options"]), "report": report}


def _without_folder(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the names of files instead of their paths; the name of a model on the Hub is no path."""
    files = [name for name in ("items_file", "model", "new_items", "teacher") if options.get(name) is not None]
    is_path = {name: name == "items_file" or Path(options[name]).exists() for name in files}
    return options | {name: last_part(options[name]) for name in files if is_path[name]}


def last_part(path: str | Path) -> str:
    """Of a path, `.` included, the name of the file or folder."""
    return Path(path).name or Path(path).resolve().name


def hardware() -> dict[str, Any]:
    """The machine: processor, the vector instructions torch uses, threads, memory (`None` where the system does not tell)."""
    cpu, information = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if information.exists():
        named = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].split(":", 1)[1].strip() if named else cpu
    has_memory = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if has_memory else None
    return {
        "cpu": cpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "memory_gib": memory and round(memory / 2**30),
    }


def versions() -> dict[str, str]:
    """Versions of Python, this package with its commit where it runs from a clone, and the packages that compute."""
    found = {"python": platform.python_version()}
    for name in ("hf_bert4rec", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # `datasets` is optional; this package may run from a folder that nobody has installed
    commit = checkout_commit(SOURCE, "hf_bert4rec")
    return found | ({} if commit is None else {"commit": commit})


def checkout_commit(folder: Path, *paths: str) -> str | None:
    r"""
    The commit that a folder is a clone at, with a `+` where one of its paths was changed since.

    Args:
        folder (`Path`): Top folder of the clone.
        paths (`str`): What counts as a change, as `git status` takes it.

    Returns:
        `str` or `None`: `None` where the folder is no clone, or there is no git.
    """
    if not (folder / ".git").exists():  # a folder inside somebody else's repository has that one's commits
        return None
    git = ["git", "-C", str(folder)]
    changes = [*git, "status", "--porcelain", "--", *paths]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(changes, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def cpu_seconds() -> float:
    """Of this process and the data loaders that it has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_memory() -> int | None:
    """Bytes: the most this process ever had resident; `None` where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _accelerator(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
