"""
The page of a trained model, made of the run's own record and its metrics files, never by hand.

*Source:* Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019); metadata as huggingface_hub checks it.

*Differences:* the wording is in `model_card_template.md`; here are the figures that it speaks of.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .card_facts import WITHOUT_EFFECT, CardFacts, machine_rows, machines, read_facts
from .configuration_bert4rec import Bert4RecConfig
from .distillation import TeacherOptions
from .interactions.histories import report_text
from .known_results import known_beside
from .metrics_text import scorers_of, too_few_negatives
from .plots import (
    BREAKDOWNS,
    WITHOUT_MATPLOTLIB,
    cutoffs,
    group_name,
    has_coverage,
    has_matplotlib,
    plot_metrics,
    plot_run,
)
from .protocols import PROTOCOLS
from .recipes import RECIPES
from .whole_file import write_whole_file

TEMPLATE = Path(__file__).with_name("model_card_template.md")
TASK = "next-item-recommendation"
COLUMNS = {"ndcg@10": "NDCG@10", "recall@10": "Recall@10", "recall@20": "Recall@20", "mrr": "MRR"}
SCORERS = {"popularity": "popularity", "markov": "Markov counts"}
SEED_COLUMNS = ("ndcg@10", "recall@10")
CURVE_ROWS = 12
# Fields of the configuration that the card names elsewhere, and options that change no figure.
TOLD_ELSEWHERE = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"}
TOLD_ELSEWHERE |= {"training_loss", "hidden_dropout_prob"}
UNTOLD_OPTIONS = WITHOUT_EFFECT | {"recipe", "tau"}
# Groups with fewer users are in the table, but nothing is concluded from them.
MIN_USERS_OF_A_GROUP = 50


@dataclass
class CardOptions:
    """What the record of a run does not know; the fields are options of `hf-bert4rec card`."""

    title: str | None = field(
        default=None, metadata={"help": "Heading of the card (default: the model and its data)."}
    )
    dataset: str | None = field(
        default=None, metadata={"help": "What people call the data (default: the name of the log's file)."}
    )
    datasets: list[str] | None = field(default=None, metadata={"help": "JSON list of ids of data sets on the Hub."})
    license: str = field(default="apache-2.0", metadata={"help": "Licence of the weights, as the Hub names it."})
    model_id: str | None = field(
        default=None, metadata={"help": "What `pipeline` loads the model from (default: the name of RUN)."}
    )
    limits: str | None = field(default=None, metadata={"help": "A sentence to add to the limits."})
    command: str | None = field(
        default=None, metadata={"help": "A command that makes run and card, in place of those that the run recorded."}
    )


def write_model_card(
    run: str | Path, metrics: Sequence[str | Path], output_file: str | Path | None = None, **options: Any
) -> list[Path]:
    r"""
    Write the card of a run, and beside it pictures of the validation curve and of what the metrics hold ([`plots.plot_metrics`]).

    Without matplotlib there are no pictures; the card has the same figures as tables, and says so.

    Args:
        run (`str` or `Path`): Folder that [`train`] wrote.
        metrics (sequence of `str` or `Path`): Files of `hf-bert4rec evaluate --output_file` or of [`evaluate_run`]: one for
            each protocol, and those of the same training with other seeds.
        output_file (`str` or `Path`, *optional*): The card; `README.md` in the folder by default.
        options: Fields of [`CardOptions`].

    Returns:
        list of `Path`: the card and its pictures.

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If a file cannot be read, or the metrics are not those of this run.

    Example:
        ```python
        >>> write_model_card("run", ["metrics.json"])  # doctest: +SKIP
        [PosixPath('run/README.md'), PosixPath('run/validation.png'), PosixPath('run/cutoffs.png'), ...]
        ```
    """
    chosen, facts = CardOptions(**options), read_facts(run, metrics)
    file = facts.folder / "README.md" if output_file is None else Path(output_file)
    prefix = "" if file.stem == "README" else f"{file.stem}-"
    pictures, reason = _pictures(facts, file.parent, prefix)
    content = _content(facts, chosen) | {"pictures": pictures, "no_pictures": reason}
    card = ModelCard.from_template(_metadata(facts, chosen), template_path=str(TEMPLATE), **content)
    write_whole_file(file, re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n")
    return [file, *(file.parent / name for name in pictures.values())]


def _pictures(facts: CardFacts, folder: Path, prefix: str) -> tuple[dict[str, str], str | None]:
    """File names of the pictures that were made, and why there are none."""
    if not has_matplotlib():
        return {}, WITHOUT_MATPLOTLIB
    made = (
        plot_run(facts.record["log_history"], facts.record["best_step"], folder, prefix) if facts.evaluations else {}
    )
    return made | plot_metrics(facts.shown, folder, prefix), None


def _metadata(facts: CardFacts, options: CardOptions) -> ModelCardData:
    """What the Hub reads: tags, and the results of the model by protocol."""
    dataset = _dataset(facts, options)
    slug = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "interactions"
    results = [
        EvalResult(
            task_type=TASK,
            task_name="Next-item recommendation",
            dataset_type=slug,
            dataset_name=dataset,
            dataset_config=found["protocol"],
            dataset_split=found["split"],
            metric_type=metric,
            metric_name=f"{name} ({found['protocol']})",
            metric_value=round(found["model"][metric], 5),
        )
        for found in facts.metrics
        for metric, name in COLUMNS.items()
    ]
    return ModelCardData(
        library_name="transformers",
        license=options.license,
        base_model=facts.record.get("start", {}).get("hub_model"),
        tags=["bert4rec", "hf_bert4rec", "sequential-recommendation", "recommender-system", TASK],
        datasets=options.datasets,
        metrics=["recall", "ndcg", "mrr"],
        model_name=_title(facts, options),
        eval_results=results,
        co2_eq_emissions=_emissions(facts.record),
    )


def _emissions(record: dict[str, Any]) -> dict[str, Any] | None:
    """As the Hub reads them: grams, by what, of which training, where and on what."""
    if "energy" not in record:
        return None
    energy = record["energy"]
    country = energy["country"]
    return {
        "emissions": float(f"{energy['emissions_kg'] * 1000:.4g}"),
        "source": energy["tracker"] + ("" if country else ", at the world's average electricity"),
        "training_type": "pre-training",
        **({"geographical_location": country} if country else {}),
        "hardware_used": machines(record["sessions"]),
    }


def _content(facts: CardFacts, options: CardOptions) -> dict[str, Any]:
    """Everything that the template speaks of."""
    record = facts.record
    commands = record.get("commands", []) if options.command is None else [options.command]
    return {
        "title": _title(facts, options),
        "dataset": _dataset(facts, options),
        "model": _model_name(facts),
        "config": facts.config,
        "members": facts.members,
        "record": record,
        # As Python reads them: JSON's escapes of letters beyond 16 bits are none of Python.
        "model_id": json.dumps(options.model_id or facts.folder.resolve().name, ensure_ascii=False),
        "example_items": json.dumps(facts.example_items, ensure_ascii=False),
        "results": [_result(found, facts) for found in facts.metrics],
        "shown": facts.shown,
        "by_popularity": _breakdown(facts, "by_popularity"),
        "by_history_length": _breakdown(facts, "by_history_length"),
        "coverage": _coverage(facts),
        "commands": commands,
        "training": _training_rows(facts),
        "chosen_by": record["training_arguments"]["metric_for_best_model"],
        "curve": _curve_rows(facts),
        "data_report": report_text(record["data"]["report"]).splitlines(),
        "limits": [*_limits(facts), *([options.limits] if options.limits else [])],
        "missing": facts.missing,
    }


def _model_name(facts: CardFacts) -> str:
    return "SASRec" if facts.record["sequence_options"]["causal_probability"] == 1 else "BERT4Rec"


def _dataset(facts: CardFacts, options: CardOptions) -> str:
    return options.dataset or Path(facts.record["data"]["report"]["log"]).name.split(".")[0]


def _title(facts: CardFacts, options: CardOptions) -> str:
    return options.title or f"{_model_name(facts)} on {_dataset(facts, options)}"


def _result(found: dict[str, Any], facts: CardFacts) -> dict[str, Any]:
    """The table of one protocol, what other seeds gave under it, and what others published."""
    protocol, rows = PROTOCOLS[found["protocol"]], []
    for scorer, metrics in scorers_of(found).items():
        rows.append([_scorer_name(scorer, facts), *(_with_interval(metrics, name) for name in COLUMNS)])
        if "first_minus_this" in metrics:
            leads = [metrics["first_minus_this"][name] for name in COLUMNS]
            rows.append(["– lead over it, user by user", *(f"{low:+.4f} to {high:+.4f}" for low, high in leads)])
    kind = (found["protocol"], found["split"])
    same = [other for other in facts.other_seeds if (other["protocol"], other["split"]) == kind]
    by_seed = [] if facts.members else [(facts.seeds[0], found["model"])]
    by_seed += [(other["run"]["seed"], other["model"]) for other in same]
    seeds = [[str(seed), *(f"{metrics[name]:.4f}" for name in SEED_COLUMNS)] for seed, metrics in by_seed]
    if len(by_seed) > 1:
        columns = [[metrics[name] for _, metrics in by_seed] for name in SEED_COLUMNS]
        seeds.append(["mean ± standard deviation", *(f"{_mean(column)} ± {_spread(column)}" for column in columns)])
    return {
        **found,
        "description": protocol.description,
        "is_sampled": found.get("mean_negatives", protocol.num_negatives or 0) > (protocol.num_negatives or 0) / 2,
        "too_few_negatives": too_few_negatives(found),
        "tells_of_seen_items": "forbidden" in protocol.description or "unseen" in protocol.description,
        "published": _published(found),
        "columns": ["", *COLUMNS.values()],
        "rows": rows,
        "seed_columns": ["seed", *(COLUMNS[name] for name in SEED_COLUMNS)],
        "seeds": seeds if len(by_seed) > 1 else [],
    }


def _published(found: dict[str, Any]) -> list[list[str]]:
    """Comparable figures of other people for the same events, the best first."""
    beside = known_beside(found)
    rows = [] if beside is None else [row for row in beside.comparable if row.tolerance is None]
    return [
        [row.model, *(f"{row.metrics[name]:.4f}" if name in row.metrics else "" for name in SEED_COLUMNS), row.source]
        for row in rows
    ]


def _scorer_name(scorer: str, facts: CardFacts) -> str:
    return f"**{_model_name(facts)}**" if scorer == "model" else SCORERS.get(scorer, scorer)


def _with_interval(metrics: dict[str, Any], name: str) -> str:
    low, high = metrics["intervals"][name]
    return f"{metrics[name]:.4f} [{low:.4f}, {high:.4f}]"


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f}"


def _spread(values: list[float]) -> str:
    return f"{statistics.stdev(values):.4f}"


def _breakdown(facts: CardFacts, key: str) -> dict[str, Any]:
    """Figures of groups of users as a table."""
    groups = facts.shown.get(key)
    if not groups:
        return {}
    names = list(scorers_of(groups[0]))
    columns = [
        BREAKDOWNS[key][2],
        "users",
        *(f"Recall@10, {SCORERS.get(name, name)}" for name in names),
        "NDCG@10, model",
    ]
    rows = [
        [
            group_name(group),
            f"{group['num_users']:,}",
            *(_with_interval(group[name], "recall@10") for name in names),
            f"{group['model']['ndcg@10']:.4f}",
        ]
        for group in groups
    ]
    return {"columns": columns, "rows": rows}


def _coverage(facts: CardFacts) -> dict[str, Any]:
    """Share of the catalogue in anybody's first k as a table."""
    if not has_coverage(facts.shown):
        return {}
    ks = cutoffs(facts.shown, "coverage")
    scorers = scorers_of(facts.shown).items()
    rows = [[_scorer_name(name, facts), *(f"{found[f'coverage@{k}']:.1%}" for k in ks)] for name, found in scorers]
    return {"columns": ["", *(f"first {k}" for k in ks)], "rows": rows}


def _training_rows(facts: CardFacts) -> list[list[str]]:
    """What was done, on what, and how long it took."""
    record, config = facts.record, facts.config
    sequence, arguments = record["sequence_options"], record["training_arguments"]
    size = f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}, {config.num_attention_heads} heads"
    batch_size = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"]
    steps = f"{record['global_step']:,}, in batches of {batch_size * record['num_processes']}"
    bests = [member["best_step"] for member in facts.members] or [record["best_step"]]
    is_best = f"those of step {', '.join(f'{step:,}' for step in bests if step is not None)}, best on validation"
    kept = "the last" if None in bests else is_best
    causal, hidden = sequence["causal_probability"], f"{sequence['mlm_probability']:.0%} of the items hidden"
    samples = f"{causal:.0%} predict each item from those before it" + (f", the others {hidden}" if causal < 1 else "")
    fields = {name: getattr(config, name) for name in Bert4RecConfig.__annotations__ if name not in TOLD_ELSEWHERE}
    changed = [f"`{name}={value!r}`" for name, value in fields.items() if value != getattr(Bert4RecConfig, name)]
    rows = [
        ["recipe", _recipe(record)],
        ["seed", ", ".join(map(str, facts.seeds))],
        ["model", f"{size}, last {config.max_position_embeddings} events, loss `{config.training_loss}`"],
        *([["architecture", ", ".join(changed)]] if changed else []),
        ["samples", samples],
        ["steps", f"{steps}, learning rate {arguments['learning_rate']:g}, dropout {config.hidden_dropout_prob:g}"],
        ["precision", "bf16" if arguments["bf16"] else "fp16" if arguments["fp16"] else "float32"],
        ["weights kept", kept],
    ]
    if start := record.get("start"):
        amounts = ", ".join(f"{start[f'num_{kind}_items']:,} {kind}" for kind in ("known", "new", "retired"))
        rows.insert(0, ["continued from", f"{start['model']}; items: {amounts}"])
    if readings := record.get("readings"):  # validation of each; older runs chose none
        found = ", ".join(f"{reading} {value:.4f}" for reading, value in readings.items())
        judge = "best on validation" + (", members on average" if facts.members else "")
        rows.append(["reading", f"{config.reading}, {judge} ({found})"])
    return rows + _later_rows(record) + machine_rows(record)


def _later_rows(record: dict[str, Any]) -> list[list[str]]:
    """Who taught the model, and what became of its scores."""
    rows, options = [], record.get("options", {})
    if teacher := record.get("teacher"):
        weight = options.get("teacher_weight", TeacherOptions.teacher_weight)
        taken = (
            f", itself trained in {teacher['cpu_seconds'] / 60:.1f} CPU minutes" if "cpu_seconds" in teacher else ""
        )
        rows.append(["teacher", f"{teacher['model']}, {weight:.0%} of the loss{taken}"])
    if tau := options.get("tau"):
        rows.append(["adjusted", f"{tau:g} log(1 + training events of an item) taken off its score, after training"])
    return rows


def _recipe(record: dict[str, Any]) -> str:
    """Its name, and the options that were given other values than it has."""
    name, given = record["sequence_options"]["recipe"], record.get("options", {})
    own = RECIPES.get(name, {})
    others = [f"`{option}`" for option in given.keys() - UNTOLD_OPTIONS if own.get(option, ...) != given[option]]
    return name + (f", but for {', '.join(sorted(others))}" if others else "")


def _curve_rows(facts: CardFacts) -> list[list[str]]:
    """The validation curve, thinned; the first, the kept and the last evaluation are always there."""
    entries = facts.evaluations
    every = -(-len(entries) // CURVE_ROWS) or 1
    best = facts.record["best_step"]
    chosen = [e for n, e in enumerate(entries) if n % every == 0 or e["step"] == best or e is entries[-1]]
    return [
        [
            f"{entry['step']:,}" + (" (kept)" if entry["step"] == best else ""),
            f"{entry['epoch']:.1f}",
            *(f"{entry[f'eval_{name}']:.4f}" for name in ("loss", "ndcg@10", "recall@10")),
        ]
        for entry in chosen
    ]


def _limits(facts: CardFacts) -> list[str]:
    """What follows from the figures themselves."""
    data, found = facts.record["data"], facts.metrics[0]
    limits = [
        f"It knows the {data['num_items']:,} items of its log and no others: unknown items in a history are skipped, new "
        "ones are never recommended before it is trained again.",
        "It reads the order of events alone: no times between them, no ratings, no attributes of items or users.",
        f"It was measured on what {found['num_users']:,} users of this log did next, not on what they do when shown its "
        "recommendations.",
    ]
    if data["split"] == "leave-one-out":
        limits.append(
            "Leave-one-out trains on events of other users that are later than the test event, which a service in use cannot."
        )
    if found["cold_targets"]:
        limits.append(f"{found['cold_targets']:.1%} of the targets never occur in training and cannot be found.")
    groups = [group for group in facts.shown.get("by_popularity", []) if group["num_users"] >= MIN_USERS_OF_A_GROUP]
    if len(groups) > 1:
        rare, common = ((group_name(group), group["model"]["recall@10"]) for group in (groups[0], groups[-1]))
        limits.append(
            f"How well it does depends on popularity: Recall@10 is {rare[1]:.3f} for targets with {rare[0]} training events "
            f"and {common[1]:.3f} for those with {common[0]}."
        )
    if len(facts.seeds) == 1 and not facts.other_seeds:
        limits.append("One seed was trained: how much another would differ is not known.")
    return limits
