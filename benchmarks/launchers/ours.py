"""hf_bert4rec: `hf-bert4rec prepare`, `train`, then the pipeline, all with their defaults but for the sizes all share."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import pipeline

from hf_bert4rec import InteractionData, load_data, train
from hf_bert4rec.ranking import top_k_items
from hf_bert4rec.scoring import ModelScorer

from .. import task as sizes
from ..histories import Histories
from ..measurement import Launcher, main
from ..task import Task


def prepared_data(task: Task, histories: Histories) -> Path:
    """What `prepare` makes, in a process of its own, as on the command line: its memory is not the training's."""
    prepared = Path(task.folder) / "prepared"
    if not prepared.exists():
        prepared.parent.mkdir(parents=True, exist_ok=True)
        log = prepared.with_suffix(".parquet")
        pd.DataFrame(histories.columns(held_out=0)).to_parquet(log)
        keep_all = ("--min_user_events", "1", "--min_item_events", "1")
        command = [sys.executable, "-m", "hf_bert4rec", "prepare", str(log), "--output_dir", str(prepared)]
        subprocess.run([*command, "--time_column", "time", *keep_all], check=True)
    return prepared


def train_with_defaults(data: InteractionData, folder: str, task: Task, **options: Any) -> tuple[Path, float]:
    """A training with the package's defaults but for `options`; the run, and the CPU seconds that it took."""
    start = time.process_time()
    run = train(
        data,
        Path(folder) / "run",
        max_position_embeddings=task.max_length,
        num_train_epochs=task.variant["epochs"],
        seed=task.variant["seed"],
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    return run, time.process_time() - start


class Ours(Launcher):
    """`variant`: `attention_dropout` (`float`), `bf16` (`bool`)."""

    packages = ("transformers", "accelerate")
    filters_seen = True

    def __init__(self, task: Task, histories: Histories):
        self.task, self.histories = task, histories
        self.steps_per_pass = histories.num_users / sizes.BATCH_SIZE
        if task.num_steps is None:  # whole passes are timed: the small last batch is one of the steps
            self.steps_per_pass = float(task.steps_of(histories.num_users))
        self.data = prepared_data(task, histories)
        self.folder = tempfile.TemporaryDirectory()
        self.run = Path(self.folder.name) / "run"

    def train(self, num_steps: int):
        train(
            load_data(self.data),
            self.run,
            recipe="default",  # on every log
            head_transform=True,  # the head of BERT, which the others have
            hidden_size=sizes.HIDDEN_SIZE,
            num_hidden_layers=sizes.NUM_LAYERS,
            num_attention_heads=sizes.NUM_HEADS,
            intermediate_size=sizes.INTERMEDIATE_SIZE,
            hidden_dropout_prob=sizes.DROPOUT,
            attention_probs_dropout_prob=self.task.variant["attention_dropout"],
            max_position_embeddings=self.task.max_length,
            mlm_probability=sizes.MLM_PROBABILITY,
            last_item_probability=0.0,  # the others hide rho of every sequence
            causal_probability=0.0,
            per_device_train_batch_size=sizes.BATCH_SIZE,
            learning_rate=sizes.LEARNING_RATE,
            max_steps=num_steps,
            bf16=self.task.variant["bf16"],
            eval_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )

    def get_ready(self, users: np.ndarray):
        dtype = torch.bfloat16 if self.task.variant["bf16"] else torch.float32
        self.pipeline = pipeline("next-item-recommendation", model=str(self.run), device="cpu", dtype=dtype)
        parts = self.histories.without_last(1)
        self.known = {self.histories.user_ids[user].item(): parts[user].tolist() for user in users}

    def recommend(self) -> dict[Any, list[Any]]:
        answers = self.pipeline(list(self.known.values()), top_k=sizes.TOP_K)
        items = [[entry["item_id"] for entry in answer["recommendations"]] for answer in answers]
        return dict(zip(self.known, items, strict=True))

    def more_figures(self) -> dict[str, float]:
        """The same without the pipeline: tokens in, tokens out. What is left of the pipeline's time is its own."""
        scorer = ModelScorer(self.pipeline.model)
        tokens = [np.array(self.pipeline.tokenizer.encode_items(known)[0]) for known in self.known.values()]
        start = time.process_time()
        for first in range(0, len(tokens), 256):
            batch = tokens[first : first + 256]
            top_k_items(scorer(None, batch), sizes.TOP_K, seen=batch, vocab_size=scorer.vocab_size)
        return {"scorer_users_per_cpu_second": len(tokens) / (time.process_time() - start)}


if __name__ == "__main__":
    main(Ours)
