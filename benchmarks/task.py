"""
What a launcher is asked to do, written by the benchmark and read in the environment of the system that is measured.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The same for all systems; attention dropout is what each has by default.
HIDDEN_SIZE = 64
NUM_LAYERS = 2
NUM_HEADS = 2
INTERMEDIATE_SIZE = 256
DROPOUT = 0.2
MLM_PROBABILITY = 0.2
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
TOP_K = 10
# The first steps warm caches and allocate; they are not counted.
WARMUP_STEPS = 2


@dataclass(frozen=True)
class Task:
    """
    One measurement of one system.

    Args:
        histories (`str`): File of the histories.
        folder (`str`): Where a launcher may leave what it can use again.
        max_length (`int`): Events of a window.
        num_threads (`int`): Threads of matrix products.
        num_steps (`int`, *optional*): Training steps that are timed; `None`: as many as a pass over all users has.
        num_users (`int`): For how many users items are recommended.
        variant (`dict`): What distinguishes two systems of one launcher.
    """

    histories: str
    folder: str
    max_length: int
    num_threads: int = 1
    num_steps: int | None = None
    num_users: int = 6040
    variant: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path):
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, path: str | Path) -> Task:
        return cls(**json.loads(Path(path).read_text()))

    def steps_of(self, num_sequences: int) -> int:
        """Timed steps, where a pass has `num_sequences` sequences."""
        return -(-num_sequences // BATCH_SIZE) if self.num_steps is None else self.num_steps
