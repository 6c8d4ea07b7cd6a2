"""
A row of the results table from its recipe: prepare, train, test once, write the model card. What is there is not made again.

*Source:* what reproductions of BERT4Rec found missing in the papers (Petrov & Macdonald, RecSys 2022): one command, with all it
takes, for each figure.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .card_facts import WITHOUT_EFFECT
from .comparison import evaluate_run
from .cpu_attention import has_bf16_products
from .ensemble import ensemble_runs
from .interactions import InteractionData, InteractionOptions, load_data, prepare
from .logit_adjustment import adjust_run
from .model_card import write_model_card
from .protocols import read_metrics
from .recipes import RECIPES
from .run_folder import read_record, weights_hash
from .training import train
from .whole_file import write_whole_file

# Options of `prepare` that leave no trace in the data, and the file of titles, which is recorded with its folder.
WITHOUT_TRACE = {"engine", "memory_limit", "threads", "items_file"}


def reproduce(
    recipe_file: str | Path,
    data_dir: str | Path,
    output_dir: str | Path,
    cards_dir: str | Path,
    *,
    seeds: Sequence[int] | None = None,
    command: str | None = None,
) -> list[Path]:
    r"""
    Make a row of the results table, `ROW` being the name of its recipe; begun again, it goes on where it stopped.

    Args:
        recipe_file (`str` or `Path`): JSON, see CONTRIBUTING.md.
        data_dir (`str` or `Path`): Folder of the logs.
        output_dir (`str` or `Path`):
            Folder for the prepared data `ROW.data`, the runs `ROW-SEED`, where a row is one ensemble `ROW`, and their
            metrics `RUN-PROTOCOL.json`. Data and runs that another row gives have its name.
        cards_dir (`str` or `Path`): Folder for the card `ROW.md`, its pictures, and the facts behind it, `ROW.json`.
        seeds (sequence of `int`, *optional*): By default those of the recipe.
        command (`str`, *optional*): What the card gives as the command that makes the row.

    Returns:
        `list[Path]`: the card and its pictures.

    Raises:
        FileNotFoundError: If the recipe or the log is missing.
        ValueError: If the log is another than the recipe's, or what is there was made by other options.
    """
    file, output_dir, cards_dir = Path(recipe_file), Path(output_dir), Path(cards_dir)
    recipe = read_recipe(file)
    for folder in (output_dir, cards_dir):
        folder.mkdir(parents=True, exist_ok=True)
    start, target = output_dir / (_base(recipe) or file.stem), output_dir / file.stem
    data = prepared_data(recipe, Path(data_dir), start.with_name(f"{start.name}.data"))
    options = _options(recipe, data, start)
    seeds = seeds or recipe["seeds"]
    if "joins" in recipe:
        runs = [_joined(target, start, data, seeds, options)]
    elif "adjusts" in recipe:
        options |= {"tau": recipe["tau"]}
        runs = [_adjusted(_of_seed(target, seed), _of_seed(start, seed), data, seed, options) for seed in seeds]
    else:
        runs = [_trained(_of_seed(start, seed), data, seed, options) for seed in seeds]
    metrics = [_metrics_file(run, data, protocol) for run in runs for protocol in recipe["protocols"]]
    written = write_model_card(runs[0], metrics, cards_dir / f"{file.stem}.md", command=command, **recipe["card"])
    facts = {"command": command, "recipe": recipe, "metrics": [read_metrics(path) for path in metrics]}
    facts["runs"] = [read_record(run) for run in runs]
    write_whole_file(cards_dir / f"{file.stem}.json", json.dumps(facts, indent=1) + "\n")
    return written


def read_recipe(file: str | Path) -> dict[str, Any]:
    r"""
    A recipe; one that adjusts or joins the runs of another has what it does not say from there.

    Args:
        file (`str` or `Path`): JSON; another recipe is looked for beside it.

    Returns:
        `dict`

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it does both, or another that itself adjusts or joins one.
    """
    recipe = json.loads(Path(file).read_text("utf-8"))
    base = _base(recipe)
    if base is None:
        return recipe
    other = json.loads(Path(file).with_name(f"{base}.json").read_text("utf-8"))
    if {"adjusts", "joins"} <= recipe.keys() or _base(other) is not None:
        raise ValueError(f"{file} adjusts or joins what is adjusted or joined already; name a recipe that trains.")
    return other | recipe


def _base(recipe: dict[str, Any]) -> str | None:
    """The row whose runs another takes."""
    return recipe.get("adjusts") or recipe.get("joins")


def prepared_data(recipe: dict[str, Any], data_dir: Path, folder: Path) -> InteractionData:
    r"""
    The data of a row, made where they are missing, and checked to be those that the recipe is meant for.

    Args:
        recipe (`dict`): See [`read_recipe`].
        data_dir (`Path`): Folder of the logs.
        folder (`Path`): Of the prepared data.

    Returns:
        [`InteractionData`]

    Raises:
        FileNotFoundError: If the log is missing.
        ValueError: If data or their options are others than the recipe's.
    """
    log = data_dir / recipe["log"]
    if not folder.exists():
        if not log.exists():
            raise FileNotFoundError(
                f"{data_dir} has no {recipe['log']}; give --data_dir with the folder that holds it."
            )
        if recipe.get("one_user_a_line"):  # user item item ...
            lines, log = gzip.decompress(log.read_bytes()).decode().splitlines(), folder.with_suffix(".csv")
            events = [f"{user},{item}\n" for user, *items in map(str.split, lines) for item in items]
            log.write_text("user_id,item_id\n" + "".join(events))
        prepare(log, folder, **recipe["prepare"])
    data = load_data(folder)
    wanted = dataclasses.asdict(InteractionOptions(**recipe["prepare"]))
    _check_alike(folder, data.metadata["options"], {n: v for n, v in wanted.items() if n not in WITHOUT_TRACE})
    if (expected := recipe.get("data_hash")) not in (None, (found := data.content_hash())):
        raise ValueError(
            f"{folder} holds other data ({found[:12]}) than the recipe's ({expected[:12]}); get the same log."
        )
    return data


def _options(recipe: dict[str, Any], data: InteractionData, start: Path) -> dict[str, Any]:
    """Options of the training of a row, with its teacher, which is made where it is missing."""
    options = recipe["train"] | ({"bf16": has_bf16_products()} if recipe["train"].get("bf16") else {})
    if "teacher_seeds" not in recipe:
        return options
    teacher = start.with_name(f"{start.name}-teacher")
    return options | recipe["student"] | {"teacher": _joined(teacher, teacher, data, recipe["teacher_seeds"], options)}


def _of_seed(start: Path, seed: int) -> Path:
    return start.with_name(f"{start.name}-{seed}")


def _trained(run: Path, data: InteractionData, seed: int, options: dict[str, Any]) -> Path:
    if not run.exists():
        train(data, run, seed=seed, **options)
    _check_run(run, data, [seed], options)
    return run


def _joined(folder: Path, start: Path, data: InteractionData, seeds: Sequence[int], options: dict[str, Any]) -> Path:
    """The ensemble of the runs of some seeds; where it is there, they are needed no more."""
    if not folder.exists():
        ensemble_runs([_trained(_of_seed(start, seed), data, seed, options) for seed in seeds], folder)
    _check_run(folder, data, seeds, options)
    return folder


def _adjusted(folder: Path, run: Path, data: InteractionData, seed: int, options: dict[str, Any]) -> Path:
    """The run of a seed, adjusted by the `tau` of the options; where it is there, the run is needed no more."""
    if not folder.exists():
        trained = _trained(run, data, seed, {name: value for name, value in options.items() if name != "tau"})
        adjust_run(trained, data, folder, tau=options["tau"])
    _check_run(folder, data, [seed], options)
    if run.exists():
        _check_alike(folder, {"weights": read_record(folder).get("adjusts")}, {"weights": weights_hash(run)})
    return folder


def _check_run(run: Path, data: InteractionData, seeds: Sequence[int], options: dict[str, Any]):
    """Whether a run was made of this data with these seeds and options and no others."""
    record = read_record(run)
    facts = {"seeds": [member["seed"] for member in record.get("members", [record["training_arguments"]])]}
    facts |= {"data": record["data_hash"]}
    wanted = options | {"seeds": list(seeds), "data": data.content_hash()}
    if "teacher" in options and "teacher" in record:
        facts["teacher"] = record["teacher"]["weights_hash"]
        wanted["teacher"] = weights_hash(options["teacher"])
    # What `train` chose by itself may be what the recipe says, and what was given what the recipe of that name has.
    known = RECIPES.get(record["sequence_options"]["recipe"], {})
    extra = {name: value for name, value in record["options"].items() if known.get(name) != value}
    made = record["sequence_options"] | record["options"] | facts
    _check_alike(run, made, dict.fromkeys(extra) | wanted)


def _check_alike(folder: Path, made: dict[str, Any], wanted: dict[str, Any]):
    """Whether what is there was made by what is wanted."""
    for name, value in wanted.items():
        if name not in WITHOUT_EFFECT and made.get(name) != value:
            raise ValueError(
                f"{folder} was made with {name} {made.get(name)!r}, and should be with {value!r}; remove it, or give another "
                "--output_dir."
            )


def _metrics_file(run: Path, data: InteractionData, protocol: str) -> Path:
    """The metrics of these weights under a protocol, `RUN-PROTOCOL.json`: the test targets are looked at once."""
    file = run.with_name(f"{run.name}-{protocol}.json")
    found = read_metrics(file) if file.exists() else {}
    kind = found.get("protocol"), found.get("split"), found.get("run", {}).get("weights_hash")
    if kind != (protocol, "test", weights_hash(run)):
        found = evaluate_run(run, data, protocol=protocol, with_coverage=protocol == "full-catalogue")
        write_whole_file(file, json.dumps(found, indent=1))
    return file
