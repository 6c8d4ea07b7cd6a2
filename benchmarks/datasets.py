"""
The logs that are measured on. They are read from a folder of the user's and never become part of the project.

*Source:* MovieLens-1M as in SASRec's and BERT4Rec's papers (3,416 items); Amazon Beauty, the file of BERT4Rec's authors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .histories import Histories


@dataclass(frozen=True)
class Dataset:
    """
    A log and the window that models read of it.

    Args:
        title (`str`): How tables call it.
        max_length (`int`): Events of a window, the paper's N.
        shape (`tuple`): Users, items and events that the log must have.
        file (`str`, *optional*): Where the log is in the data folder; a generated one has no file.
        read (callable): Path of the file -> a frame with `user_id` and `item_id`, each user's events in order of time.
    """

    title: str
    max_length: int
    shape: tuple[int, int, int]
    file: str | None
    read: Callable[[Path], pd.DataFrame]


def _read_movielens(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path).sort_values(["user_id", "position"])


def _read_beauty(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep=" ", names=["user_id", "item_id"])


def _generate(path: Path) -> pd.DataFrame:
    """A small log without meaning, to try the benchmark itself."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 31, 300)
    items = np.concatenate([generator.permutation(50)[:length] for length in lengths])
    return pd.DataFrame({"user_id": np.repeat(np.arange(1, 301), lengths), "item_id": items + 1})


DATASETS = {
    "ml-1m": Dataset("ML-1M", 200, (6040, 3416, 999_611), "ml-1m/interactions.parquet", _read_movielens),
    "beauty": Dataset("Beauty", 50, (40_226, 54_542, 353_962), "amazon-beauty/beauty.txt.gz", _read_beauty),
    "generated": Dataset("generated", 20, (300, 50, 5449), None, _generate),
}


def prepared_histories(name: str, data: Path | None, folder: Path) -> Path:
    r"""
    The histories of a data set, in a file that the launchers read; made where it is missing.

    Args:
        name (`str`): A key of `DATASETS`.
        data (`Path`, *optional*): Folder that holds the logs.
        folder (`Path`): Where the file goes.

    Returns:
        `Path`: the file.

    Raises:
        FileNotFoundError: If the log is missing.
        ValueError: If the log is another one than the figures are meant for.
    """
    dataset, prepared = DATASETS[name], folder / f"{name}.npz"
    if prepared.exists():
        return prepared
    path = Path() if dataset.file is None else (data or Path()) / dataset.file
    if dataset.file is not None and (data is None or not path.exists()):
        where = "no folder of logs was given" if data is None else f"{data} has no {dataset.file}"
        raise FileNotFoundError(f"{name}: {where}; give --data, or set BERT4REC_DATA, with the folder that holds it.")
    log = dataset.read(path)
    found = (log["user_id"].nunique(), log["item_id"].nunique(), len(log))
    if found != dataset.shape:
        raise ValueError(f"{path} has {found} users, items and events, expected {dataset.shape}; get the papers' log.")
    log = log.sort_values("user_id", kind="stable")
    user_ids, counts = np.unique(log["user_id"].to_numpy(), return_counts=True)
    folder.mkdir(parents=True, exist_ok=True)
    Histories(user_ids, log["item_id"].to_numpy(), np.concatenate([[0], np.cumsum(counts)])).save(prepared)
    return prepared
