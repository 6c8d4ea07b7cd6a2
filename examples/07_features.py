"""
The vectors of a trained model as features of other models: who a user is, by logistic regression, and which items are alike.

    hf-bert4rec embed RUN --data DATA --output_dir vectors
    python examples/07_features.py --vectors vectors --log interactions.parquet --users users.dat

Needs `pip install 'hf_bert4rec[examples]'`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

COLUMNS = ["user_id", "gender", "age", "occupation", "zip"]  # of MovieLens' users.dat


def read_vectors(path: Path, name: str) -> pd.DataFrame:
    """A row for each id, which is text; a column for each number of the vectors."""
    table = pq.read_table(path)
    numbers = table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
    return pd.DataFrame(numbers, index=[str(identifier) for identifier in table[name].to_pylist()])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, required=True, help="folder of hf-bert4rec embed")
    parser.add_argument("--log", required=True, help="Parquet with user_id and item_id")
    parser.add_argument("--users", required=True, help="a line a user: user::gender::age::occupation::zip")
    parser.add_argument("--attribute", choices=COLUMNS[1:4], default="gender")
    parser.add_argument("--num_items", type=int, default=5, help="for how many items, the most frequent first")
    options = parser.parse_args()

    users = read_vectors(options.vectors / "user_vectors.parquet", "user_id")
    items = read_vectors(options.vectors / "item_vectors.parquet", "item_id")
    log = pd.read_parquet(options.log)[["user_id", "item_id"]].astype(str)
    log = log[log.item_id.isin(items.index) & log.user_id.isin(users.index)]
    taken = items.loc[log.item_id].groupby(log.user_id.to_numpy()).mean().loc[users.index]
    known = pd.read_csv(options.users, sep="::", engine="python", names=COLUMNS, encoding="latin-1", dtype=str)
    labels = known.set_index("user_id")[options.attribute][users.index].to_numpy(dtype=object)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    classes, counts = np.unique(labels[train], return_counts=True)
    print(f"majority class: accuracy {(labels[test] == classes[counts.argmax()]).mean():.3f}")
    for name, features in (("user vector", users), ("mean of the user's item vectors", taken)):
        rows = features.to_numpy()
        regressions = GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.001, 0.01, 0.1, 1]}, cv=3)
        model = make_pipeline(StandardScaler(), regressions).fit(rows[train], labels[train])
        area = roc_auc_score(labels[test][:, None] == classes, model.predict_proba(rows[test]))
        print(f"{name}: accuracy {model.score(rows[test], labels[test]):.3f}, AUC {area:.3f}")

    neighbours = NearestNeighbors(n_neighbors=4, metric="cosine").fit(items.to_numpy())
    for first, *nearest in neighbours.kneighbors(items.to_numpy()[: options.num_items], return_distance=False):
        print(f"{items.index[first]} is like {', '.join(items.index[nearest])}")


if __name__ == "__main__":
    main()
