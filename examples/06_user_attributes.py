"""
Who is behind a history: gender, age group or occupation from the items alone, by a head on a pre-trained model and the
plain `Trainer`, beside logistic regression on which items each user has. Needs `pip install 'hf_bert4rec[examples]'`.

    hf-bert4rec train DATA --output_dir RUN # of the same items; it sees no attribute
    python examples/06_user_attributes.py --log interactions.parquet --users users.dat --model RUN
"""

import argparse
import tempfile

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import hf_bert4rec  # noqa: F401 registers the classes

COLUMNS = ["user_id", "gender", "age", "occupation", "zip"]  # of MovieLens' users.dat


def report(name: str, scores: np.ndarray, labels: np.ndarray):
    """Accuracy, and the area under the ROC curve (of each class against the others, on average), with 95 % intervals."""
    is_right, is_class = scores.argmax(1) == labels, labels[:, None] == np.arange(scores.shape[1])
    samples = [np.arange(len(labels)), *np.random.default_rng(0).integers(len(labels), size=(300, len(labels)))]
    samples = [rows for rows in samples if is_class[rows].any(0).all()]  # an area needs both sides of each class
    found = [(is_right[rows].mean(), roc_auc_score(is_class[rows], scores[rows])) for rows in samples]
    for metric, (value, *values) in zip(("accuracy", "AUC"), zip(*found, strict=True), strict=True):
        low, high = np.quantile(values, [0.025, 0.975])
        print(f"{name:<24}{metric:<9}{value:.3f} [{low:.3f}, {high:.3f}]")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True, help="Parquet with user_id, item_id; a user's events in order")
    parser.add_argument("--users", required=True, help="a line a user: user::gender::age::occupation::zip")
    parser.add_argument("--model", required=True, help="folder of hf-bert4rec train")
    parser.add_argument("--attribute", choices=COLUMNS[1:4], default="gender")
    parser.add_argument("--from_scratch", action="store_true", help="the same architecture, without trained weights")
    parser.add_argument("--num_train_epochs", type=float, default=4)
    options = parser.parse_args()

    histories = pd.read_parquet(options.log).groupby("user_id").item_id.agg(list)
    users = pd.read_csv(options.users, sep="::", engine="python", names=COLUMNS, encoding="latin-1")
    classes, labels = np.unique(users.set_index("user_id")[options.attribute][histories.index], return_inverse=True)
    rows = np.random.default_rng(0).permutation(len(labels))
    train, validation, test = np.split(rows, [int(0.7 * len(rows)), int(0.8 * len(rows))])
    majority = np.tile(np.bincount(labels[train]) / len(train), (len(test), 1))
    report("majority class", majority, labels[test])

    counts = CountVectorizer(analyzer=list, binary=True).fit_transform(histories)
    tried = [LogisticRegression(C=c, max_iter=300).fit(counts[train], labels[train]) for c in (0.003, 0.01, 0.03, 0.1)]
    chosen = max(tried, key=lambda model: model.score(counts[validation], labels[validation]))
    report("logistic regression", chosen.predict_proba(counts[test]), labels[test])

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    names = dict(enumerate(map(str, classes)))
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(names), id2label=names)
    model = AutoModelForSequenceClassification.from_config(model.config) if options.from_scratch else model
    length = model.config.max_position_embeddings  # of a longer history the newest events
    tokens = tokenizer(histories.tolist(), is_split_into_words=True, truncation=True, max_length=length)["input_ids"]
    parts = [[{"input_ids": tokens[i], "labels": labels[i]} for i in part] for part in (train, validation, test)]
    schedule = {"num_train_epochs": options.num_train_epochs, "learning_rate": 1e-3, "per_device_train_batch_size": 64}
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    with tempfile.TemporaryDirectory() as folder:
        machine = {"dataloader_pin_memory": torch.cuda.is_available()}  # on a CPU alone it warns
        arguments = TrainingArguments(folder, train_sampling_strategy="group_by_length", **machine, **schedule, **best)
        trainer = Trainer(model, arguments, train_dataset=parts[0], eval_dataset=parts[1], processing_class=tokenizer)
        trainer.train()
        found = trainer.predict(parts[2])  # in an order of its own, by length
    scores = torch.tensor(found.predictions).softmax(1).numpy()
    report("BERT4Rec from scratch" if options.from_scratch else "BERT4Rec", scores, found.label_ids)


if __name__ == "__main__":
    main()
