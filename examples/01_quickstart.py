"""
From a log of interactions to recommendations, on a generated world, in under two minutes on a laptop.

    python examples/01_quickstart.py
"""

import argparse
import tempfile
from pathlib import Path

from transformers import pipeline

from hf_bert4rec import Bert4RecForMaskedLM, compare, prepare, train
from hf_bert4rec.synthetic import SyntheticWorld


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_train_epochs", type=int, default=8)
    arguments = parser.parse_args()

    world = SyntheticWorld()
    log = world.generate()  # any table with the columns user_id, item_id, timestamp
    print(log.head(3).to_string(index=False))

    with tempfile.TemporaryDirectory() as folder:
        data = prepare(log, Path(folder) / "data")
        print(data.report_text())
        run = train(data, Path(folder) / "run", num_train_epochs=arguments.num_train_epochs)
        metrics = compare(Bert4RecForMaskedLM.from_pretrained(run), data)
        for name in ("popularity", "markov", "model"):
            low, high = metrics[name]["intervals"]["ndcg@10"]
            print(f"{name:<10} NDCG@10 {metrics[name]['ndcg@10']:.3f} [{low:.3f}, {high:.3f}]")

        recommend = pipeline("next-item-recommendation", model=str(run))
        history = log[log.user_id == log.user_id[0]].item_id.tolist()
        for entry in recommend(history, top_k=3)["recommendations"]:
            print(world.titles[entry["item_id"]], round(entry["score"], 2))


if __name__ == "__main__":
    main()
