"""
RecBole: its `Config`, `create_dataset`, `Trainer.fit` and `full_sort_topk`.

Its data set holds one sequence for every prefix of a history, so that its own pass over MovieLens-1M is 160 times as long as
the others': what is counted here is the same unit as theirs, one sequence per user. Its `full_sort_topk` cannot leave
out items that the user knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from recbole.utils.case_study import full_sort_topk

from .. import task as sizes
from ..histories import Histories
from ..measurement import Launcher, main
from ..task import Task


class RecBole(Launcher):
    packages = ("recbole", "pandas", "scipy")
    filters_seen = False

    def __init__(self, task: Task, histories: Histories):
        self.histories = histories
        self.steps_per_pass = histories.num_users / sizes.BATCH_SIZE
        folder = Path(task.folder) / "recbole"
        self._write_log(folder / "log" / "log.inter")
        self.config = Config(model="BERT4Rec", dataset="log", config_dict=self._options(task, folder))
        init_seed(0, True)
        self.dataset = create_dataset(self.config)
        self.training, _, self.test = data_preparation(self.config, self.dataset)
        self.model = get_model("BERT4Rec")(self.config, self.training.dataset)

    def _write_log(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        log = pd.DataFrame(self.histories.columns(held_out=0))
        log.columns = ["user_id:token", "item_id:token", "time:float"]
        log.to_csv(path, sep="\t", index=False)

    def _options(self, task: Task, folder: Path) -> dict[str, Any]:
        return {
            "data_path": str(folder),
            "checkpoint_dir": str(folder / "checkpoints"),
            "load_col": {"inter": ["user_id", "item_id", "time"]},
            "TIME_FIELD": "time",
            "use_gpu": False,
            "state": "ERROR",
            "show_progress": False,
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "MAX_ITEM_LIST_LENGTH": task.max_length,
            "n_layers": sizes.NUM_LAYERS,
            "n_heads": sizes.NUM_HEADS,
            "hidden_size": sizes.HIDDEN_SIZE,
            "inner_size": sizes.INTERMEDIATE_SIZE,
            "hidden_dropout_prob": sizes.DROPOUT,
            "mask_ratio": sizes.MLM_PROBABILITY,
            "ft_ratio": 0.0,  # hide rho of every sequence, as the others do
            "learning_rate": sizes.LEARNING_RATE,
            "train_batch_size": sizes.BATCH_SIZE,
            "eval_batch_size": sizes.BATCH_SIZE,
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        }

    def train(self, num_steps: int):
        trainer = get_trainer(self.config["MODEL_TYPE"], "BERT4Rec")(self.config, self.model)
        trainer.fit(self.training, saved=False, verbose=False)  # the clock ends it: it counts in its own long passes

    def get_ready(self, users: np.ndarray):
        self.user_ids = self.histories.user_ids[users]
        self.model.eval()

    def recommend(self) -> dict[Any, list[Any]]:
        found: dict[Any, list[Any]] = {}
        for start in range(0, len(self.user_ids), sizes.BATCH_SIZE):
            chosen = self.user_ids[start : start + sizes.BATCH_SIZE]
            internal = self.dataset.token2id(self.dataset.uid_field, [str(user) for user in chosen])
            _, best = full_sort_topk(internal, self.model, self.test, k=sizes.TOP_K, device="cpu")
            items = self.dataset.id2token(self.dataset.iid_field, best.numpy())
            found.update(zip(chosen.tolist(), items.tolist(), strict=True))
        return found


if __name__ == "__main__":
    main(RecBole)
