"""
One row of the results table from its recipe in `examples/recipes`: prepare, train, test once, write the model card.
`python examples/04_reproduce.py ml-1m --data_dir LOGS --output_dir RUNS`, given again, goes on where it stopped.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path

from hf_bert4rec import adjust_run, ensemble_runs, evaluate_run, load_data, prepare, train, write_model_card
from hf_bert4rec.cpu_attention import has_bf16_products

RECIPES = Path(__file__).parent / "recipes"


def prepared(row: str, recipe: dict, arguments: argparse.Namespace):
    """The data of a row, made where it is missing and checked to be those that the recipe is meant for."""
    folder, log = arguments.output_dir / f"{row}.data", arguments.data_dir / recipe["log"]
    if not folder.exists():
        if not log.exists():
            sys.exit(f"{arguments.data_dir} has no {recipe['log']}; give --data_dir with the folder that holds it.")
        if recipe.get("one_user_a_line"):  # user item item ...
            lines, log = gzip.decompress(log.read_bytes()).decode().splitlines(), folder.with_suffix(".csv")
            events = [f"{user},{item}\n" for user, *items in map(str.split, lines) for item in items]
            log.write_text("user_id,item_id\n" + "".join(events))
        prepare(log, folder, **recipe["prepare"])
    data = load_data(folder)
    if (expected := recipe.get("data_hash")) not in (None, (found := data.content_hash())):
        sys.exit(f"{folder} holds other data ({found[:12]}) than the recipe's ({expected[:12]}); get the same log.")
    return data


def trained(start: Path, data, seeds: list[int], options: dict) -> list[Path]:
    """A run for each seed, `START-SEED`; those that are there are not made again."""
    runs = {seed: start.with_name(f"{start.name}-{seed}") for seed in seeds}
    return [run if run.exists() else train(data, run, seed=seed, **options) for seed, run in runs.items()]


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
    row, recipe, cards = file.stem, json.loads(file.read_text()), arguments.cards_dir
    arguments.output_dir.mkdir(parents=True, exist_ok=True), cards.mkdir(parents=True, exist_ok=True)
    start, metrics = arguments.output_dir / recipe.get("adjusts", row), []
    recipe = json.loads(file.with_name(f"{start.name}.json").read_text()) | recipe
    data = prepared(start.name, recipe, arguments)
    options = recipe["train"] | ({"bf16": has_bf16_products()} if recipe["train"].get("bf16") else {})
    if "teacher_seeds" in recipe:
        teacher = start.with_name(f"{start.name}-teacher")
        if not teacher.exists():
            ensemble_runs(trained(teacher, data, recipe["teacher_seeds"], options), teacher)
        options |= recipe["student"] | {"teacher": teacher}
    runs = trained(start, data, arguments.seeds or recipe["seeds"], options)
    pairs = [(run, run.with_name(run.name.replace(start.name, row, 1))) for run in runs]  # alike, unless it adjusts
    runs = [to if to.exists() else adjust_run(run, data, to, tau=recipe["tau"]) for run, to in pairs]
    for run, protocol in [(run, protocol) for run in runs for protocol in recipe["protocols"]]:
        metrics.append(run.with_name(f"{run.name}-{protocol}.json"))
        if not metrics[-1].exists():
            found = evaluate_run(run, data, protocol=protocol, with_coverage=protocol == "full-catalogue")
            metrics[-1].write_text(json.dumps(found, indent=1))
    command = f"python examples/04_reproduce.py {Path(arguments.row).name} --data_dir LOGS --output_dir RUNS"
    command += f" --seeds {' '.join(map(str, arguments.seeds))}" if arguments.seeds else ""
    print("Written", *write_model_card(runs[0], metrics, cards / f"{row}.md", command=command, **recipe["card"]))
    facts = {"command": command, "recipe": recipe, "metrics": [json.loads(file.read_text()) for file in metrics]}
    facts["runs"] = [json.loads((run / "run.json").read_text()) for run in runs]
    (cards / f"{row}.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
