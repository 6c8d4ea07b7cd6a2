"""hf_bert4rec trained with its defaults for some passes, and ranked on the test targets. `variant`: `bf16`, `seed`, `epochs`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from hf_bert4rec import Bert4RecForMaskedLM, compare, load_data, train

from ..histories import Histories
from ..task import Task
from .ours import prepared_data


def main():
    """`TASK RESULT`, as of every launcher."""
    task = Task.read(sys.argv[1])
    torch.set_num_threads(task.num_threads)
    data = load_data(prepared_data(task, Histories.load(task.histories)))
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        run = train(
            data,
            Path(folder) / "run",
            max_position_embeddings=task.max_length,
            num_train_epochs=task.variant["epochs"],
            seed=task.variant["seed"],
            bf16=task.variant["bf16"],
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        seconds = time.process_time() - start
        metrics = compare(Bert4RecForMaskedLM.from_pretrained(run), data)["model"]
    versions = {name: version(name) for name in ("torch", "transformers")}
    Path(sys.argv[2]).write_text(json.dumps({"metrics": metrics, "cpu_seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
