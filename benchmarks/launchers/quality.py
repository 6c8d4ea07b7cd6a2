"""hf_bert4rec trained with its defaults for some passes, and ranked on the test targets. `variant`: `bf16`, `seed`, `epochs`."""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from hf_bert4rec import Bert4RecForMaskedLM, compare, load_data

from ..histories import Histories
from ..task import Task
from .ours import prepared_data, train_with_defaults


def main():
    """`TASK RESULT`, as of every launcher."""
    task = Task.read(sys.argv[1])
    torch.set_num_threads(task.num_threads)
    data = load_data(prepared_data(task, Histories.load(task.histories)))
    with tempfile.TemporaryDirectory() as folder:
        run, seconds = train_with_defaults(data, folder, task, bf16=task.variant["bf16"])
        metrics = compare(Bert4RecForMaskedLM.from_pretrained(run), data)["model"]
    versions = {name: version(name) for name in ("torch", "transformers")}
    Path(sys.argv[2]).write_text(json.dumps({"metrics": metrics, "cpu_seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
