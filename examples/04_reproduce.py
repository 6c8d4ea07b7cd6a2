"""
One row of the results table from its recipe in `examples/recipes`: prepare, train, test once, write the model card.

    python examples/04_reproduce.py ml-1m --data_dir LOGS --output_dir RUNS

The same command given again goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from hf_bert4rec.reproduction import reproduce

RECIPES = Path(__file__).parent / "recipes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", help="name of a recipe in examples/recipes, or path of one that ends in .json")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the logs")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for prepared data, runs and metrics")
    parser.add_argument("--cards_dir", type=Path, default=Path("model_cards"), help="folder for the card")
    parser.add_argument("--seeds", type=int, nargs="+", help="by default those of the recipe")
    arguments = parser.parse_args()
    file = Path(arguments.row) if arguments.row.endswith(".json") else RECIPES / f"{arguments.row}.json"
    if not file.exists():
        sys.exit(f"There is no recipe {file}; choose of {', '.join(sorted(path.stem for path in RECIPES.iterdir()))}.")
    command = f"python examples/04_reproduce.py {Path(arguments.row).name} --data_dir LOGS --output_dir RUNS"
    command += f" --seeds {' '.join(map(str, arguments.seeds))}" if arguments.seeds else ""
    folders = arguments.data_dir, arguments.output_dir, arguments.cards_dir
    try:
        print("Written", *reproduce(file, *folders, seeds=arguments.seeds, command=command))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
