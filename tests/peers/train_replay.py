"""Trains a tiny model with RePlay, in an environment of its own: `python train_replay.py tied|untied PASSES FOLDER`."""

import json
import sys
import warnings
from pathlib import Path

import lightning
import pandas as pd
import torch
from replay.data import Dataset, FeatureHint, FeatureInfo, FeatureSchema, FeatureSource, FeatureType
from replay.data.nn import SequenceTokenizer, TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.sequential import Bert4Rec
from replay.models.nn.sequential.bert4rec import Bert4RecTrainingDataset

warnings.filterwarnings("ignore")
head, num_passes, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
lightning.seed_everything(0)
rows = [(user, f"i{(user * user + step) % 13}", step) for user in range(30) for step in range(4 + user % 9)]
hints = {"user_id": FeatureHint.QUERY_ID, "item_id": FeatureHint.ITEM_ID, "timestamp": FeatureHint.TIMESTAMP}
kinds = {"timestamp": FeatureType.NUMERICAL}
features = [FeatureInfo(name, kinds.get(name, FeatureType.CATEGORICAL), hint) for name, hint in hints.items()]
log = Dataset(FeatureSchema(features), pd.DataFrame(rows, columns=list(hints)), categorical_encoded=False)
item = TensorFeatureInfo(
    "item_id_seq",
    FeatureType.CATEGORICAL,
    is_seq=True,
    feature_hint=FeatureHint.ITEM_ID,
    feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
    embedding_dim=16,
)
schema = TensorSchema(item)
tokenizer = SequenceTokenizer(schema, allow_collect_to_master=True)
sequences = Bert4RecTrainingDataset(tokenizer.fit_transform(log), max_sequence_length=8)
options = {"block_count": 2, "head_count": 2, "hidden_size": 16, "max_seq_len": 8, "dropout_rate": 0.1}
options["pass_per_transformer_block_count"] = num_passes
model = Bert4Rec(schema, enable_embedding_tying=head == "tied", **options)
quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
trainer = lightning.Trainer(max_epochs=3, **quiet)
trainer.fit(model, torch.utils.data.DataLoader(sequences, batch_size=8))
trainer.save_checkpoint(folder / "model.ckpt")
tokenizer.save(folder / "tokenizer")

model.eval()
table = tokenizer.query_and_item_id_encoder.mapping["item_id"]
ids = sorted(table, key=table.get)
histories, scores = [], []
for length in range(1, 12):  # the last ones are longer than the window
    history = [ids[(3 * length + step * step) % 13] for step in range(length)]
    tokens = [table[item] for item in history][-7:]
    is_event = torch.tensor([[False] * (7 - len(tokens)) + [True] * (len(tokens) + 1)])
    is_item = is_event.clone()
    is_item[0, -1] = False
    padded = torch.tensor([[0] * (7 - len(tokens)) + tokens + [0]])
    with torch.no_grad():
        found = model._model.predict({"item_id_seq": padded}, is_event, is_item)
    histories.append(history)
    scores.append(found[0].tolist())
answer = {"checkpoint": str(folder / "model.ckpt"), "items": ids, "histories": histories, "scores": scores}
(folder / "answer.json").write_text(json.dumps(answer))
