"""Trains a tiny model with RecTools, in an environment of its own: `python train_rectools.py FOLDER`."""

import json
import sys
import warnings
from pathlib import Path

import pandas as pd
import torch
from pytorch_lightning import seed_everything
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel

warnings.filterwarnings("ignore")
folder = Path(sys.argv[1])
seed_everything(0)
rows = [(f"u{user}", f"i{(user * user + step) % 13}", step) for user in range(30) for step in range(4 + user % 9)]
log = pd.DataFrame(rows, columns=["user_id", "item_id", "step"]).assign(weight=1.0)
log["datetime"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(log.pop("step"), unit="D")
model = BERT4RecModel(n_blocks=2, n_heads=2, n_factors=16, session_max_len=8, epochs=2, recommend_torch_device="cpu")
model.fit(Dataset.construct(log))
model.save(folder / "model.pkl")

ids = [str(item) for item in model.data_preparator.item_id_map.external_ids]  # PAD and MASK first
backbone = model.lightning_model.torch_model.eval()
histories, scores = [], []
for length in range(1, 12):  # the last ones are longer than the window
    history = [ids[2 + (3 * length + step * step) % 13] for step in range(length)]
    tokens = [*(ids.index(item) for item in history), 1][-8:]
    with torch.no_grad():
        table = backbone.item_model.get_all_embeddings()
        encoded = backbone.encode_sessions({"x": torch.tensor([[0] * (8 - len(tokens)) + tokens])}, table)
    histories.append(history)
    scores.append((table @ encoded[0, -1])[2:].tolist())
answer = {"checkpoint": str(folder / "model.pkl"), "items": ids[2:], "histories": histories, "scores": scores}
(folder / "answer.json").write_text(json.dumps(answer))
