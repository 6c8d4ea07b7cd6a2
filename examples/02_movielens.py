"""
MovieLens-100K from the web, or from `--path` where there is no network: prepare, train, evaluate, recommend by title.

    python examples/02_movielens.py                      # downloads 5 MB once, checks its SHA-256
    python examples/02_movielens.py --path ml-100k       # a folder that holds u.data and u.item
"""

import argparse
import hashlib
import io
import json
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from transformers import pipeline

from hf_bert4rec import Bert4RecForMaskedLM, compare, prepare, train

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"


def download(folder: Path) -> Path:
    """Fetch MovieLens-100K into `folder`, once. Its licence forbids passing it on, so it is not part of this project."""
    if not (folder / "ml-100k" / "u.item").exists():
        try:
            content = urllib.request.urlopen(URL, timeout=60).read()
        except (urllib.error.URLError, TimeoutError) as error:
            sys.exit(
                f"{URL} cannot be reached ({error}); fetch it elsewhere and give --path with the unpacked folder."
            )
        if hashlib.sha256(content).hexdigest() != SHA256:
            sys.exit(f"{URL} is not the file that this script was written for (SHA-256 differs); give --path.")
        zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
    return folder / "ml-100k"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, help="folder that holds u.data and u.item")
    parser.add_argument("--output_dir", type=Path, default=Path("ml-100k-run"), help="where data and model go")
    parser.add_argument("--num_train_epochs", type=int, default=None, help="default: that of train()")
    arguments = parser.parse_args()
    source = arguments.path or download(Path("."))
    for name in ("u.data", "u.item"):
        if not (source / name).exists():
            sys.exit(f"{source} has no {name}; give --path with the unpacked folder of MovieLens-100K.")

    data = prepare(
        source / "u.data",
        arguments.output_dir / "data",
        user_column="0",
        item_column="1",
        time_column="3",
        items_file=str(source / "u.item"),
        items_separator="|",
        items_encoding="latin-1",
    )
    print(data.report_text())

    options = {} if arguments.num_train_epochs is None else {"num_train_epochs": arguments.num_train_epochs}
    run = train(data, arguments.output_dir / "model", **options)
    metrics = compare(Bert4RecForMaskedLM.from_pretrained(run), data)
    print(json.dumps({name: metrics[name]["ndcg@10"] for name in ("popularity", "markov", "model")}, indent=2))

    recommend = pipeline("next-item-recommendation", model=str(run))
    answer = recommend(["50", "172", "181"], top_k=5)  # Star Wars and its two sequels
    print("After the three Star Wars films:", ", ".join(entry["title"] for entry in answer["recommendations"]))


if __name__ == "__main__":
    main()
