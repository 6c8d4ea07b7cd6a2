"""
The systems that are measured, and the environments that they need.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What each environment holds. RecBole 1.2.1 does not say that it needs these versions of setuptools, numpy, pandas and scipy.
REQUIREMENTS = {
    "rectools": ("torch==2.13.0", "rectools[torch]==0.19.0"),
    "replay-rec": ("torch==2.13.0", "replay-rec[torch]==0.22.0"),
    "recbole": ("torch==2.13.0", "recbole==1.2.1", "setuptools<81", "numpy<2", "pandas<3", "scipy<1.14"),
}
# Padded batches of other systems are all alike, so a few steps tell what a pass takes. Ours differ in length.
STEPS_OF_PADDED_BATCHES = 12


@dataclass(frozen=True)
class System:
    """
    A system, in one of its variants.

    Args:
        title (`str`): How tables call it.
        launcher (`str`): Module in `benchmarks/launchers`.
        environment (`str`, *optional*): A key of `REQUIREMENTS`; `None`: the environment that this runs in.
        num_steps (`int`, *optional*): Steps that are timed unless another number is asked for; `None`: a whole pass.
        variant (`dict`): What its launcher is told.
    """

    title: str
    launcher: str
    environment: str | None = None
    num_steps: int | None = STEPS_OF_PADDED_BATCHES
    variant: dict[str, Any] = field(default_factory=dict)


def _ours(title: str, attention_dropout: float, bf16: bool) -> System:
    variant = {"attention_dropout": attention_dropout, "bf16": bf16}
    return System(f"hf_bert4rec, {title}", "ours", num_steps=None, variant=variant)


SYSTEMS = {
    "ours": _ours("float32", 0.0, False),
    "ours-attention-dropout": _ours("float32, attention dropout .2", 0.2, False),
    "ours-bf16": _ours("bf16", 0.0, True),
    "ours-bf16-attention-dropout": _ours("bf16, attention dropout .2", 0.2, True),
    "plain": System("plain BertForMaskedLM + Trainer", "plain"),
    "rectools": System("RecTools", "rectools", "rectools"),
    "replay": System("RePlay", "replay", "replay-rec", variant={"loss": "CE"}),
    "replay-restricted": System("RePlay, CE_restricted", "replay", "replay-rec", variant={"loss": "CE_restricted"}),
    "recbole": System("RecBole", "recbole", "recbole"),
}
PEERS = tuple(name for name, system in SYSTEMS.items() if system.environment)


def python_of(system: System, folder: Path) -> Path:
    r"""
    The interpreter of a system's environment, which is made, or brought to the present requirements, where it is not there.

    Args:
        system ([`System`]): The system.
        folder (`Path`): Where environments are kept.

    Returns:
        `Path`: the interpreter.

    Raises:
        subprocess.CalledProcessError: If something cannot be installed.
    """
    if system.environment is None:
        return Path(sys.executable)
    home, requirements = folder.absolute() / system.environment, REQUIREMENTS[system.environment]
    python, stamp = home / "bin" / "python", home / ".installed"
    wanted = "\n".join(requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    commands = [[str(python), "-m", "pip", "install", "--quiet", *requirements]]
    if not python.exists():
        commands.insert(0, [sys.executable, "-m", "venv", str(home)])
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, text=True)
    stamp.write_text(wanted)
    return python
