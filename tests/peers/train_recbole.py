"""Trains a tiny model with RecBole, in an environment of its own: `python train_recbole.py MODEL FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

model_name, folder = sys.argv[1], Path(sys.argv[2])
(folder / "tiny").mkdir()
lines = [f"u{user}\ti{(user * user + step) % 13}\t{10 * step}" for user in range(30) for step in range(4 + user % 9)]
header = "user_id:token\titem_id:token\ttimestamp:float"
(folder / "tiny" / "tiny.inter").write_text("\n".join([header, *lines]) + "\n")
sys.argv = sys.argv[:1]  # RecBole reads options there
settings = {"data_path": str(folder), "checkpoint_dir": str(folder / "saved"), "save_dataset": True, "use_gpu": False}
settings |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "train_neg_sample_args": None, "epochs": 2}
settings |= {
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 16,
    "inner_size": 24,
    "MAX_ITEM_LIST_LENGTH": 8,
    "device": "cpu",
}
settings["eval_args"] = {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"}
config = Config(model=model_name, dataset="tiny", config_dict=settings | {"show_progress": False, "state": "ERROR"})
init_seed(0, True)
dataset = create_dataset(config)
train, validation, _ = data_preparation(config, dataset)
model = get_model(model_name)(config, train._dataset)
trainer = get_trainer(config["MODEL_TYPE"], model_name)(config, model)
trainer.fit(train, validation, show_progress=False)
model.load_state_dict(torch.load(trainer.saved_model_file, weights_only=False)["state_dict"])
model.eval()

ids = [str(item) for item in dataset.field2id_token["item_id"]]
histories, scores = [], []
for length in range(1, 12):  # the last ones are longer than the window
    history = [ids[1 + (3 * length + step * step) % 13] for step in range(length)]
    tokens = [ids.index(item) for item in history]
    tokens = [*tokens[-7:], model.mask_token] if model_name == "BERT4Rec" else tokens[-8:]
    padded = torch.tensor([tokens + [0] * (8 - len(tokens))])
    with torch.no_grad():
        if model_name == "BERT4Rec":
            vector = model.forward(padded)[0, len(tokens) - 1]
            found = model.item_embedding.weight[: model.n_items] @ vector + model.output_bias
        else:
            found = model.item_embedding.weight @ model.forward(padded, torch.tensor([len(tokens)]))[0]
    histories.append(history)
    scores.append(found[1:].tolist())
answer = {"checkpoint": trainer.saved_model_file, "items": ids[1:], "histories": histories, "scores": scores}
(folder / "answer.json").write_text(json.dumps(answer))
