"""RecTools: `BERT4RecModel.fit` and `.recommend`. Its loss takes the scores of every position of a padded batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel

from .. import task as sizes
from ..histories import Histories
from ..measurement import Launcher, main
from ..task import Task


class RecTools(Launcher):
    packages = ("rectools", "pytorch-lightning")
    filters_seen = True

    def __init__(self, task: Task, histories: Histories):
        self.task, self.histories = task, histories
        # It trains on users with two events or more.
        self.steps_per_pass = sum(len(part) > 1 for part in histories.without_last(2)) / sizes.BATCH_SIZE

    def _dataset(self, held_out: int, users: np.ndarray | None = None) -> Dataset:
        log = pd.DataFrame(self.histories.columns(held_out, users))
        log = log.rename(columns={"user_id": Columns.User, "item_id": Columns.Item, "time": Columns.Datetime})
        log[Columns.Datetime] = pd.to_datetime(log[Columns.Datetime], unit="s")
        return Dataset.construct(log.assign(**{Columns.Weight: 1.0}))

    def train(self, num_steps: int):
        def trainer() -> Trainer:
            quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
            return Trainer(max_steps=num_steps, accelerator="cpu", enable_checkpointing=False, **quiet)

        self.model = BERT4RecModel(
            n_blocks=sizes.NUM_LAYERS,
            n_heads=sizes.NUM_HEADS,
            n_factors=sizes.HIDDEN_SIZE,  # the feed-forward layer is four times as wide
            dropout_rate=sizes.DROPOUT,
            mask_prob=sizes.MLM_PROBABILITY,
            session_max_len=self.task.max_length,
            loss="softmax",
            lr=sizes.LEARNING_RATE,
            batch_size=sizes.BATCH_SIZE,
            recommend_batch_size=sizes.BATCH_SIZE,
            recommend_torch_device="cpu",
            get_trainer_func=trainer,
        )
        self.model.fit(self._dataset(held_out=2))

    def get_ready(self, users: np.ndarray):
        self.user_ids, self.dataset = self.histories.user_ids[users], self._dataset(1, users)

    def recommend(self) -> dict[Any, list[Any]]:
        found = self.model.recommend(self.user_ids, self.dataset, k=sizes.TOP_K, filter_viewed=True)
        return found.groupby(Columns.User)[Columns.Item].agg(list).to_dict()


if __name__ == "__main__":
    main(RecTools)
