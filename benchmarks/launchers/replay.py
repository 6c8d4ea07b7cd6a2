"""
RePlay (`replay-rec`): `Bert4Rec` with lightning's `Trainer`, as in its own examples.

Its loss `CE`, the default, takes the scores of every position of a padded batch; `CE_restricted` those of hidden ones.
"""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import pandas as pd
from replay.data import Dataset, FeatureHint, FeatureInfo, FeatureSchema, FeatureSource, FeatureType
from replay.data.nn import SequenceTokenizer, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.optimizer_utils import FatOptimizerFactory
from replay.models.nn.sequential import Bert4Rec
from replay.models.nn.sequential.bert4rec import Bert4RecPredictionDataset, Bert4RecTrainingDataset
from replay.models.nn.sequential.callbacks import PandasPredictionCallback
from replay.models.nn.sequential.postprocessors import RemoveSeenItems
from torch.utils.data import DataLoader

from .. import task as sizes
from ..histories import Histories
from ..measurement import Launcher, main
from ..task import Task

FEATURES = FeatureSchema(
    [
        FeatureInfo("user_id", FeatureType.CATEGORICAL, FeatureHint.QUERY_ID),
        FeatureInfo("item_id", FeatureType.CATEGORICAL, FeatureHint.ITEM_ID),
        FeatureInfo("time", FeatureType.NUMERICAL, FeatureHint.TIMESTAMP),
    ]
)
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


class RePlay(Launcher):
    """`variant`: `loss` (`str`)."""

    packages = ("replay-rec", "lightning")
    filters_seen = True

    def __init__(self, task: Task, histories: Histories):
        self.task, self.histories = task, histories
        self.steps_per_pass = histories.num_users / sizes.BATCH_SIZE
        items = TensorFeatureInfo(
            name="item_id_seq",
            is_seq=True,
            feature_type=FeatureType.CATEGORICAL,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
            feature_hint=FeatureHint.ITEM_ID,
            embedding_dim=sizes.HIDDEN_SIZE,
        )
        self.schema = TensorSchema(items)
        self.tokenizer = SequenceTokenizer(self.schema, allow_collect_to_master=True)
        self.tokenizer.fit(self._dataset(held_out=0))  # the whole catalogue

    def _dataset(self, held_out: int, users: np.ndarray | None = None) -> Dataset:
        return Dataset(FEATURES, pd.DataFrame(self.histories.columns(held_out, users)))

    def train(self, num_steps: int):
        self.model = Bert4Rec(
            self.schema,
            block_count=sizes.NUM_LAYERS,
            head_count=sizes.NUM_HEADS,
            hidden_size=sizes.HIDDEN_SIZE,  # the feed-forward layer is four times as wide
            max_seq_len=self.task.max_length,
            dropout_rate=sizes.DROPOUT,
            loss_type=self.task.variant["loss"],
            optimizer_factory=FatOptimizerFactory(learning_rate=sizes.LEARNING_RATE),
        )
        sequences = self.tokenizer.transform(self._dataset(held_out=2))
        batches = DataLoader(
            Bert4RecTrainingDataset(sequences, self.task.max_length, mask_prob=sizes.MLM_PROBABILITY),
            batch_size=sizes.BATCH_SIZE,
            shuffle=True,
        )
        lightning.Trainer(max_steps=num_steps, accelerator="cpu", **QUIET).fit(self.model, batches)

    def get_ready(self, users: np.ndarray):
        self.dataset = self._dataset(1, users)

    def recommend(self) -> dict[Any, list[Any]]:
        sequences = self.tokenizer.transform(self.dataset)
        answers = PandasPredictionCallback(
            top_k=sizes.TOP_K,
            query_column="user_id",
            item_column="item_id",
            rating_column="score",
            postprocessors=[RemoveSeenItems(sequences)],
        )
        batches = DataLoader(Bert4RecPredictionDataset(sequences, self.task.max_length), batch_size=sizes.BATCH_SIZE)
        predictor = lightning.Trainer(callbacks=[answers], inference_mode=True, accelerator="cpu", **QUIET)
        predictor.predict(self.model, batches, return_predictions=False)
        found = self.tokenizer.query_and_item_id_encoder.inverse_transform(answers.get_result())
        return found.groupby("user_id")["item_id"].agg(list).to_dict()


if __name__ == "__main__":
    main(RePlay)
