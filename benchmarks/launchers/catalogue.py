"""
hf_bert4rec with one of its losses: on random histories over a catalogue of any size, or on a log for some passes.

`variant`: `loss` (fields of the configuration) and `num_items`, or `loss`, `epochs` and `seed`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, DataCollatorForCloze, load_data
from hf_bert4rec.configuration_bert4rec import FIRST_ITEM_TOKEN
from hf_bert4rec.evaluation import TrainerRanking
from hf_bert4rec.recipes import RECIPES
from hf_bert4rec.rowwise_adam import rowwise_adamw
from hf_bert4rec.run_arguments import FIXED_ARGUMENTS, RUN_DEFAULTS
from hf_bert4rec.training import SCORES_AT_ONCE, option_fields

from .. import task as sizes
from ..histories import Histories
from ..measurement import StepClock, matrix_rate, peak_memory
from ..task import WARMUP_STEPS, Task
from .ours import prepared_data, train_with_defaults


class RandomHistories(torch.utils.data.Dataset):
    """Full windows of items, the low tokens far more often than the high ones; with a target where they are ranked."""

    def __init__(self, num_rows: int, num_items: int, length: int, has_target: bool = False):
        self.num_rows, self.num_items, self.length, self.has_target = num_rows, num_items, length, has_target

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: int) -> dict[str, Any]:
        drawn = np.random.default_rng((row, self.has_target)).random(self.length) ** 3
        tokens = FIRST_ITEM_TOKEN + (drawn * self.num_items).astype(np.int64)
        if self.has_target:
            return {"input_ids": tokens[:-1], "target": int(tokens[-1])}
        return {"input_ids": tokens, "row": row, "epoch": 0}


def _defaults(owner: type) -> dict[str, Any]:
    """What the default recipe says about one dataclass."""
    return {name: value for name, value in RECIPES["default"].items() if name in option_fields()[owner]}


def _trainer(task: Task, folder: str) -> Trainer:
    """The stock Trainer as `hf_bert4rec.train` builds it; ids are all that it needs of the items."""
    num_items, num_steps = task.variant["num_items"], WARMUP_STEPS + task.steps_of(0)
    model_defaults, run_defaults = (_defaults(owner) for owner in (Bert4RecConfig, TrainingArguments))
    own = {"vocab_size": num_items + FIRST_ITEM_TOKEN, "max_position_embeddings": task.max_length}
    model = Bert4RecForMaskedLM(Bert4RecConfig(**(model_defaults | own | task.variant["loss"])))
    own = {"per_device_eval_batch_size": max(1, min(256, SCORES_AT_ONCE // model.config.vocab_size))}
    own |= {"save_strategy": "no", "report_to": "none", "metric_for_best_model": None}
    arguments = TrainingArguments(
        **(RUN_DEFAULTS | run_defaults | FIXED_ARGUMENTS | own),
        output_dir=folder,
        max_steps=num_steps,
        disable_tqdm=True,
        use_cpu=True,
    )
    ranking = TrainerRanking()
    return Trainer(
        model,
        arguments,
        data_collator=DataCollatorForCloze(max_length=task.max_length),
        train_dataset=RandomHistories(sizes.BATCH_SIZE * num_steps, num_items, task.max_length),
        eval_dataset=RandomHistories(task.num_users, num_items, task.max_length, has_target=True),
        compute_metrics=ranking.compute_metrics,
        preprocess_logits_for_metrics=ranking.preprocess_logits_for_metrics,
        optimizer_cls_and_kwargs=rowwise_adamw(model, arguments),
    )


def measured_scale(task: Task) -> dict[str, Any]:
    """Seconds of a step and of a validated user, and what both take of memory."""
    rates = [matrix_rate(torch.float32)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(task, folder)
        with StepClock(task.steps_of(0)) as clock:
            trainer.train()
        cpu, wall = clock.seconds()
        training_memory, start = peak_memory(), time.process_time()
        trainer.evaluate()
        taken = time.process_time() - start
    rates.append(matrix_rate(torch.float32))
    return {
        "step_cpu_seconds": [round(seconds, 5) for seconds in cpu],
        "step_wall_seconds": [round(seconds, 5) for seconds in wall],
        "validation_cpu_seconds_per_user": taken / task.num_users,
        "peak_training_bytes": training_memory,
        "peak_bytes": peak_memory(),
        "matrix_rate": {"float32": sum(rates) / 2},
    }


def measured_quality(task: Task) -> dict[str, Any]:
    """A training with the package's defaults but for the loss: its best validation, and what training and validating cost."""
    data = load_data(prepared_data(task, Histories.load(task.histories)))
    with tempfile.TemporaryDirectory() as folder, StepClock(sys.maxsize) as clock:
        run, seconds = train_with_defaults(data, folder, task, **task.variant["loss"])
        record = json.loads((run / "run.json").read_text())
    validations = [entry for entry in record["log_history"] if "eval_ndcg@10" in entry]
    best = max(validations, key=lambda entry: entry["eval_ndcg@10"])
    return {
        "metrics": {name.removeprefix("eval_"): value for name, value in best.items() if "@" in name},
        "best_epoch": best["epoch"],
        "curve": [(entry["epoch"], entry["eval_ndcg@10"]) for entry in validations],
        "cpu_seconds": seconds,
        "median_step_cpu_seconds": float(np.median(clock.seconds()[0])),
        "peak_bytes": peak_memory(),
    }


def main():
    """`TASK RESULT`, or `RESULT` alone for what importing takes, as of every launcher."""
    *given, result = sys.argv[1:]
    found: dict[str, Any] = {"import_bytes": peak_memory()}
    if given:
        task = Task.read(given[0])
        torch.set_num_threads(task.num_threads)
        found |= measured_quality(task) if "epochs" in task.variant else measured_scale(task)
        found["versions"] = {name: version(name) for name in ("torch", "transformers", "accelerate")}
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
