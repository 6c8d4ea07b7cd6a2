"""
Several trained models as one that scores as they do on average: the same training with other seeds, in one checkpoint.

A model of few events owes much to its seed: where items stand that nobody has seen more than a few times, and which of the
training events it has learned by heart. These errors differ from seed to seed, and their mean is small.

*Source:* Hansen & Salamon, "Neural Network Ensembles" (PAMI 1990); Lakshminarayanan et al., "Simple and Scalable Predictive
Uncertainty Estimation using Deep Ensembles" (NeurIPS 2017), whose members start anew and see all data as here.

*Differences:* scores are averaged, not probabilities, which ranks as the mean of log-probabilities does. Scores are products
with item embeddings, so the members stand side by side in one wider BERT4Rec: vectors one behind the other, weights on the
diagonal, norms over each part ([`MemberNorm`]). Whatever loads, ranks, exports, serves or fine-tunes a model does it with an
ensemble.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .configuration_bert4rec import Bert4RecConfig
from .energy import total_energy
from .fine_tuning import FREE_FIELDS
from .modeling_bert4rec import Bert4RecForMaskedLM
from .run_folder import RUN_FILE, check_run, load_run, read_record, weights_hash
from .run_record import last_part
from .tokenization_bert4rec import Bert4RecTokenizer
from .whole_file import whole_folder

# What adds up over members.
SIZES = ("hidden_size", "num_attention_heads", "intermediate_size", "num_members")
# Fields that members need not share: they fix no weight and no score. The first member's are kept.
OWN_FIELDS = (*FREE_FIELDS, "initializer_range", "linear_initializer", "value_initializer")
# Weights of several projections, one below the other, by the name of the layer.
STACKED = {"Wqkv": 3, "Wi": 2}


def ensemble_models(models: Sequence[Bert4RecForMaskedLM], *, reading: str | None = None) -> Bert4RecForMaskedLM:
    r"""
    One model whose score of an item is the mean of those of several models.

    It is as wide as all of them together: scoring a catalogue takes as long as with each of them in turn, and the products of
    reading a history their number times as long again, as half of them or more are with zeros.

    Args:
        models (sequence of [`Bert4RecForMaskedLM`]): Of one architecture and one catalogue, items in the same order.
        reading (`str`, *optional*): How the ensemble reads, see [`Bert4RecConfig`]; by default as its members do.

    Returns:
        [`Bert4RecForMaskedLM`]: of the class, device and type of the first model, in evaluation mode.

    Raises:
        ValueError: If there are fewer than two models, or they differ in what an ensemble has once.

    Example:
        >>> config = Bert4RecConfig(vocab_size=103, norm_position="pre")
        >>> model = ensemble_models([Bert4RecForMaskedLM(config), Bert4RecForMaskedLM(config)])
        >>> model.config.hidden_size, model.config.num_members
        (128, 2)
    """
    config = _config_of(models, reading)
    ensemble = type(models[0])(config).to(models[0].device, models[0].dtype)
    weights = [dict(model.named_parameters()) for model in models]
    with torch.no_grad():
        for name, parameter in ensemble.named_parameters():
            parameter.copy_(_side_by_side(name, [of_member[name] for of_member in weights]))
    return ensemble.eval()


def ensemble_runs(
    runs: Sequence[str | Path], output_dir: str | Path, *, reading: str | None = None, overwrite: bool = False
) -> Path:
    r"""
    Write the ensemble of several runs as a run: model, tokenizer, and a record that names its members.

    Args:
        runs (sequence of `str` or `Path`): Folders that [`train`] wrote, of the same data.
        output_dir (`str` or `Path`): The folder to write.
        reading (`str`, *optional*):
            See [`ensemble_models`]; by default that which was best on validation, on average over the runs.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace the folder.

    Returns:
        `Path`: the folder.

    Raises:
        FileExistsError: If the folder exists, or holds one of the runs.
        FileNotFoundError: If a run or one of its files is missing.
        ValueError: If the runs are of other data, items or objectives, or one is given twice, or see [`ensemble_models`].

    Example:
        ```python
        >>> ensemble_runs(["run-42", "run-43"], "run")  # doctest: +SKIP
        PosixPath('run')
        ```
    """
    for run in runs:
        check_run(Path(run))
    output_dir, records = Path(output_dir), [read_record(run) for run in runs]
    with whole_folder(output_dir, overwrite=overwrite, inputs=("data.json",), reads=runs) as partial:
        members, readings = _members(runs, records), {} if reading is not None else _mean_readings(records)
        loaded = [load_run(run) for run in runs]
        _check_same_training(runs, [tokenizer for _, tokenizer in loaded], records)
        if readings:
            best = min if records[0]["training_arguments"].get("greater_is_better") is False else max
            reading = best(readings, key=readings.__getitem__)
        ensemble = ensemble_models([model for model, _ in loaded], reading=reading)
        ensemble.save_pretrained(partial)
        loaded[0][1].save_pretrained(partial)
        record = _record(records, _command(runs, output_dir, None if readings else reading))
        record |= {"members": members, "readings": readings}
        record["num_parameters"] = sum(parameter.numel() for parameter in ensemble.parameters())
        (partial / RUN_FILE).write_text(json.dumps(record, indent=2))
    return output_dir


def _config_of(models: Sequence[Bert4RecForMaskedLM], reading: str | None) -> Bert4RecConfig:
    """The configuration of the ensemble, where its members agree."""
    if len(models) < 2:
        raise ValueError(f"An ensemble needs at least two models; found {len(models)}.")
    first = models[0]
    if not isinstance(first, Bert4RecForMaskedLM):
        raise ValueError(f"Model 1 is a {type(first).__name__}, which scores no items; give models that do.")
    free = {name for name in OWN_FIELDS if name != "reading" or reading is not None}
    for place, model in enumerate(models[1:], start=2):
        if type(model) is not type(first):
            raise ValueError(
                f"Model 1 is a {type(first).__name__}, model {place} a {type(model).__name__}; give models of one kind."
            )
        for name in Bert4RecConfig.__annotations__:
            own, other = getattr(first.config, name, None), getattr(model.config, name, None)
            if own != other and name not in free:
                remedy = (
                    "say which with reading" if name == "reading" else "give models of one training with other seeds"
                )
                raise ValueError(f"{name} of model 1 is {own!r}, of model {place} {other!r}; {remedy}.")
    changes: dict[str, Any] = {name: getattr(first.config, name) * len(models) for name in SIZES}
    if reading is not None:
        changes["reading"] = reading
    return Bert4RecConfig.from_dict(first.config.to_dict() | changes)


def _side_by_side(name: str, weights: list[torch.Tensor]) -> torch.Tensor:
    """A weight of the ensemble from those of its members."""
    *_, layer, _kind = name.split(".")
    if layer in ("word_embeddings", "decoder") and weights[0].ndim == 2:
        # What is read of them is multiplied by the number again, so that scores are means and inputs as they were.
        return torch.cat(weights, 1) / len(weights)
    if layer == "position_embeddings":
        return torch.cat(weights, 1)
    if layer in ("predictions", "decoder"):  # a bias for each item
        return torch.stack(weights).mean(0)
    if weights[0].ndim == 1:
        return torch.cat(weights)
    parts = zip(*(weight.chunk(STACKED.get(layer, 1)) for weight in weights), strict=True)
    return torch.cat([torch.block_diag(*of_members) for of_members in parts])


def _mean_readings(records: list[dict[str, Any]]) -> dict[str, float]:
    """What each reading reached on validation, on average; nothing where a run did not choose one."""
    found = [record.get("readings") or {} for record in records]
    names = [name for name in found[0] if all(name in each for each in found)]
    return {name: sum(each[name] for each in found) / len(found) for name in names}


def _check_same_training(
    runs: Sequence[str | Path], tokenizers: list[Bert4RecTokenizer], records: list[dict[str, Any]]
):
    objectives = [record.get("sequence_options", {}).get("causal_probability") for record in records]
    for place, run in enumerate(runs):
        if tokenizers[place].item_ids != tokenizers[0].item_ids:
            raise ValueError(
                f"{run} has other items than {runs[0]}, or another order of them; train both on the same data."
            )
        if records[place].get("data_hash") != records[0].get("data_hash"):
            raise ValueError(f"{run} was trained on other data than {runs[0]}; train both on the same data.")
        if objectives[place] != objectives[0]:
            raise ValueError(
                f"{run} was trained with causal_probability {objectives[place]}, {runs[0]} with {objectives[0]}; give runs of "
                "the same."
            )
        taus = [record.get("options", {}).get("tau", 0) for record in (records[place], records[0])]
        if taus[0] != taus[1]:
            raise ValueError(
                f"{run} is adjusted by {taus[0]:g}, {runs[0]} by {taus[1]:g}; join the runs that they were made of, then adjust."
            )


def _members(runs: Sequence[str | Path], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the record of an ensemble says of each run; of one that is an ensemble what its own record says."""
    hashes: dict[str, Any] = {}
    for run in runs:
        name = weights_hash(run)
        if name in hashes:
            raise ValueError(f"{hashes[name]} and {run} have the same weights; give each run once.")
        hashes[name] = run
    members = []
    for name, record in zip(hashes, records, strict=True):
        kept = {key: record.get(key) for key in ("best_step", "best_metric", "wall_seconds", "cpu_seconds")}
        own = {"weights_hash": name, "seed": record["training_arguments"]["seed"]} | kept
        members += record.get("members", [own])
    return members


def _command(runs: Sequence[str | Path], output_dir: Path, reading: str | None) -> str:
    words = ["hf-bert4rec", "ensemble", *map(last_part, runs), "--output_dir", last_part(output_dir)]
    return shlex.join(words + ([] if reading is None else ["--reading", reading]))


def _record(records: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """That of the first run, but for what others do not share, with the commands, the starts and the times of all."""
    first = records[0]
    commands = [command for record in records for command in record.get("commands", [])]
    sessions = [session for record in records for session in record.get("sessions", [])]
    options = [record.get("options", {}) for record in records]
    shared = {name: value for name, value in options[0].items() if all(each.get(name) == value for each in options)}
    apart = {name for name in ("start", "teacher") if any(record.get(name) != first.get(name) for record in records)}
    energy = total_energy(sessions)
    return {name: value for name, value in first.items() if name not in apart} | {
        "commands": [*dict.fromkeys(commands), command],
        "options": shared,
        "sessions": sessions,
        **{kind: round(sum(record.get(kind, 0) for record in records), 1) for kind in ("wall_seconds", "cpu_seconds")},
        **({} if energy is None else {"energy": energy}),
    }
