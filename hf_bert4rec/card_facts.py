"""
What a model card is made of: the record of a run and metrics files, checked to belong together.

*Source:* none; a figure beside the wrong weights is the commonest mistake of such pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .configuration_bert4rec import Bert4RecConfig
from .plots import BREAKDOWNS, has_coverage
from .protocols import PROTOCOLS, read_metrics
from .recipes import RECIPES
from .run_folder import read_record, weights_hash
from .tokenization_bert4rec import Bert4RecTokenizer

# What `run.json` holds since cards are made of it, in the words of a card.
RECORDED = {
    "commands": "the exact commands",
    "data_hash": "a hash of the data",
    "wall_seconds": "the time that training took",
    "hardware": "the machine",
    "num_parameters": "the number of parameters",
}
BREAKDOWN_WORDS = {
    "by_popularity": "recall by the popularity of the target",
    "by_history_length": "recall by the length of the history",
}
NUM_EXAMPLE_ITEMS = 3
# Options of `train` that change nothing of what is learned, but for chance.
WITHOUT_EFFECT = {"seed", "disable_tqdm", "use_cpu", "report_to"}


@dataclass
class CardFacts:
    r"""
    Everything a card says, as it was recorded.

    Args:
        folder (`Path`): Of the run.
        record (`dict`): Its `run.json`.
        config ([`Bert4RecConfig`]): The model's.
        example_items (`list`): Some item ids of its catalogue, the most popular ones.
        metrics (list of `dict`): Metrics files of these weights, one for each protocol and split.
        other_seeds (list of `dict`): Metrics files of the same training with other seeds; of an ensemble those of its members.
        missing (list of `str`): What the files do not say, in words.
    """

    folder: Path
    record: dict[str, Any]
    config: Bert4RecConfig
    example_items: list[str | int]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    other_seeds: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        """What weights, masks, windows and order were drawn with; of an ensemble those of its members."""
        return [member["seed"] for member in self.members] or [self.record["training_arguments"]["seed"]]

    @property
    def members(self) -> list[dict[str, Any]]:
        """What the record of an ensemble says of its members; of any other run nothing."""
        return self.record.get("members", [])

    @property
    def shown(self) -> dict[str, Any]:
        """The metrics that pictures and breakdowns are of: the first of those that tell the most."""
        return max(self.metrics, key=lambda found: sum(map(bool, map(found.get, BREAKDOWNS))) + has_coverage(found))

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The validation curve: one entry for each evaluation."""
        return [entry for entry in self.record["log_history"] if "eval_ndcg@10" in entry]


def read_facts(run: str | Path, metrics: Sequence[str | Path]) -> CardFacts:
    r"""
    Read a run and its metrics files.

    Args:
        run (`str` or `Path`): Folder that [`train`] wrote.
        metrics (sequence of `str` or `Path`): Files of `hf-bert4rec evaluate --output_file`.

    Returns:
        [`CardFacts`]

    Raises:
        FileNotFoundError: If the folder or a file is missing.
        ValueError: If a file cannot be read, or its figures are not those of this run or of another seed of it.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; check the path.")
    record = read_record(folder)
    tokenizer = Bert4RecTokenizer.from_pretrained(folder)
    items = tokenizer.item_ids[:NUM_EXAMPLE_ITEMS]
    facts = CardFacts(folder, record, Bert4RecConfig.from_pretrained(folder), items)
    own_hash = weights_hash(folder)
    for file in metrics:
        found = _read_metrics(file)
        if found.get("run", {}).get("weights_hash", own_hash) == own_hash:
            _check_own(facts, found, file)
            facts.metrics.append(found)
        else:
            _check_other_seed(facts, found, file)
            facts.other_seeds.append(found)
    if not facts.metrics:
        raise ValueError(
            f"None of the metrics files is of the weights in {folder}; write one with hf-bert4rec evaluate {folder} "
            "--output_file."
        )
    facts.missing = _missing(facts)
    return facts


def _read_metrics(file: str | Path) -> dict[str, Any]:
    found = read_metrics(file)
    if found["protocol"] not in PROTOCOLS or "intervals" not in found.get("model", {}):
        raise ValueError(
            f"{file} holds no metrics of a model under a known protocol, with intervals; give a file that evaluate "
            "--output_file wrote."
        )
    return found


def _check_own(facts: CardFacts, found: dict[str, Any], file: str | Path):
    hashes: tuple[Any, Any] = facts.record.get("data_hash"), found.get("data_hash")
    if None not in hashes and hashes[0] != hashes[1]:
        raise ValueError(
            f"{file} was measured on other data ({hashes[1][:12]}) than the run was trained on ({hashes[0][:12]}); evaluate "
            "it on the data of the run."
        )
    if any(_kind(found) == _kind(other) for other in facts.metrics):
        raise ValueError(f"{file} is a second file for {' and '.join(_kind(found))}; give one for each protocol.")


def _check_other_seed(facts: CardFacts, found: dict[str, Any], file: str | Path):
    wrong = _no_member(facts, found) if facts.members else _no_other_seed(facts, found)
    key = "weights_hash" if facts.members else "seed"
    same = [other["run"][key] for other in facts.other_seeds if _kind(other) == _kind(found)]
    if wrong is None and found["run"][key] in same:
        wrong = f"of the seed {found['run']['seed']} a second time"
    if wrong is not None:
        others = "its members" if facts.members else "the same training with another seed"
        raise ValueError(
            f"{file} holds metrics {wrong}, not those of {facts.folder}; evaluate {facts.folder}, or give metrics of {others}."
        )


def _no_member(facts: CardFacts, found: dict[str, Any]) -> str | None:
    """Why metrics are not those of a member of an ensemble; members of an adjusted one are not adjusted."""
    is_member = found["run"]["weights_hash"] in [member["weights_hash"] for member in facts.members]
    is_alike = found["run"].get("options", {}).get("tau") == facts.record.get("options", {}).get("tau")
    return None if is_member and is_alike else "of weights that are none of its members'"


def _no_other_seed(facts: CardFacts, found: dict[str, Any]) -> str | None:
    """Why metrics are not those of the same training with another seed."""
    run, record = found["run"], facts.record
    if "seed" not in run or run["seed"] in facts.seeds:
        return f"of other weights with the seed {run.get('seed')}"
    if found.get("data_hash") != record.get("data_hash"):
        return "of another run on other data"
    own, given = record.get("options", {}), run.get("options", {})
    if "recipe" in given:
        # One may spell out what the other names; another recipe is named before what it changes.
        own = {"recipe": record["sequence_options"]["recipe"]} | own
        own, given = ({"recipe": None} | RECIPES.get(each["recipe"], {}) | each for each in (own, given))
    differing = [name for name in own | given if name not in WITHOUT_EFFECT and own.get(name) != given.get(name)]
    return None if differing in ([], ["recipe"]) else f"of a run with another {differing[0]}"


def _kind(metrics: dict[str, Any]) -> tuple[str, str]:
    return metrics["protocol"], metrics["split"]


def _missing(facts: CardFacts) -> list[str]:
    """What a record or a metrics file of an older version does not say."""
    record = facts.record
    missing = [words for name, words in RECORDED.items() if name not in record]
    sessions = record.get("sessions") or [{}]
    if sessions[0].get("first_step", 0):
        missing.append(f"the time of the first {sessions[0]['first_step']:,} steps")
    if any("run" not in metrics for metrics in facts.metrics):
        missing.append("whether the metrics are those of these weights")
    for name, words in BREAKDOWN_WORDS.items():
        if not facts.shown.get(name):
            missing.append(words)
    return missing


def machine_rows(record: dict[str, Any]) -> list[list[str]]:
    """What a training took, on what, with which versions, each with its name."""
    rows = []
    if "wall_seconds" in record:
        sessions = record["sessions"]
        starts = "" if len(sessions) == 1 else f", {len(sessions)} starts"
        wall, cpu = record["wall_seconds"] / 60, record["cpu_seconds"] / 60
        rows.append(["time", f"{wall:.1f} minutes, {cpu:.1f} CPU minutes{starts}, from {sessions[0]['started']}"])
        rows += [["energy", _energy(record["energy"])]] if "energy" in record else []
        rows.append(["hardware", machines(sessions)])
        peak = max((session["peak_memory_bytes"] or 0 for session in sessions), default=0)
        rows += [["peak memory", f"{peak / 1e6:,.0f} MB"]] if peak else []
    rows.append(["versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())])
    rows += [["data, SHA-256", f"`{record['data_hash']}`"]] if "data_hash" in record else []
    return rows


def _energy(energy: dict[str, Any]) -> str:
    place = f"the electricity of {energy['country']}" if energy["country"] else "the world's average electricity"
    emitted = f"{energy['kwh']:.3g} kWh, with {place} {energy['emissions_kg'] * 1000:.3g} g of CO₂"
    return f"{emitted}; of the whole machine in {energy['seconds'] / 60:.1f} minutes, estimated by {energy['tracker']}"


def machines(sessions: list[dict[str, Any]]) -> str:
    """Processors, memory and accelerators of the starts of a run."""
    return "; then ".join(dict.fromkeys(map(_machine, sessions)))


def _machine(session: dict[str, Any]) -> str:
    machine = session["hardware"]
    memory = "" if machine["memory_gib"] is None else f", {machine['memory_gib']} GiB"
    names = session.get("accelerators") or []
    accelerators = f", {len(names)} × {names[0]}" if names else ""
    threads = session.get("threads")
    return f"{machine['cpu']}, {machine['cpu_count']} logical cores{memory}{accelerators}, threads used: {threads}"
