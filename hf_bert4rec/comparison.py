"""
A trained model beside its baselines over one split of prepared data: the content of a metrics file.

*Source:* the baselines that every table of the field begins with, popularity and last-item Markov counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .baselines import Markov, Popularity, count_items
from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .evaluation import evaluate
from .exported_scorer import EXPORT_FILE, ExportedScorer
from .interactions import InteractionData, load_data
from .modeling_bert4rec import Bert4RecForMaskedLM
from .protocols import conditions
from .ranking import Scorer
from .run_folder import RUN_FILE, load_run, read_record, weights_hash
from .scoring import ModelScorer
from .sequences import EvaluationSequences, training_events
from .tokenization_bert4rec import Bert4RecTokenizer


def compare(
    model: Bert4RecForMaskedLM | Scorer,
    data: InteractionData,
    *,
    split: str = "test",
    protocol: str = "full-catalogue",
    batch_size: int = 256,
    seed: int = 0,
    others: Mapping[str, Scorer] | None = None,
    with_coverage: bool = False,
) -> dict[str, Any]:
    r"""
    Evaluate a model and, beside it, popularity and last-item Markov counts.

    Args:
        model ([`Bert4RecForMaskedLM`] or [`ranking.Scorer`]): What is evaluated.
        data ([`InteractionData`]): Prepared with the model's vocabulary.
        split (`str`, *optional*, defaults to `"test"`): `"validation"` or `"test"`.
        protocol (`str`, *optional*, defaults to `"full-catalogue"`): See [`protocols.PROTOCOLS`].
        batch_size (`int`, *optional*, defaults to 256): Users scored at a time.
        seed (`int`, *optional*, defaults to 0): Fixes drawn negatives and the bootstrap.
        others (mapping of name to [`ranking.Scorer`], *optional*): Further scorers to compare with.
        with_coverage (`bool`, *optional*, defaults to `False`):
            Whether to count how much of the catalogue anybody is shown, see [`evaluation.evaluate`].

    Returns:
        `dict`: see [`evaluation.evaluate`]; the scorers are `model`, `popularity`, `markov` and the others. First
        `data_hash`, see [`InteractionData.content_hash`]; `conditions` ([`protocols.conditions`]) states what the figures
        are comparable with.

    Raises:
        ValueError: If the catalogues differ in size, or split or protocol is unknown or unfit for the data.
    """
    scorer = ModelScorer(model) if isinstance(model, Bert4RecForMaskedLM) else model
    vocab_size = data.num_items + FIRST_ITEM_TOKEN
    if scorer.vocab_size != vocab_size:
        raise ValueError(
            f"The model knows {scorer.vocab_size - FIRST_ITEM_TOKEN} items, the data {data.num_items}; "
            "prepare the log with the model's vocabulary (prepare --tokenizer RUN)."
        )
    events, offsets = training_events(data)
    scorers = {
        "model": scorer,
        "popularity": Popularity(events, vocab_size),
        "markov": Markov(events, offsets, vocab_size),
        **(others or {}),
    }
    sequences, item_counts = EvaluationSequences(data, split=split), count_items(events, vocab_size)
    facts = conditions(sequences, item_counts, protocol=protocol, seed=seed)
    result = evaluate(
        scorers,
        sequences,
        item_counts,
        protocol=protocol,
        batch_size=batch_size,
        seed=seed,
        with_coverage=with_coverage,
    )
    return {"data_hash": data.content_hash()} | result | {"conditions": facts}


def evaluate_run(run: str | Path, data: InteractionData | str | Path, **options: Any) -> dict[str, Any]:
    r"""
    Evaluate a saved model as [`compare`] does, and say whose figures they are.

    Args:
        run (`str` or `Path`): Folder of the model, or of an export of it ([`write_export`]), whose graph then scores.
        data ([`InteractionData`], `str` or `Path`): Prepared with the model's vocabulary, or its folder.
        options: Of [`compare`]: `split`, `protocol`, `batch_size`, `seed`, `others`, `with_coverage`.

    Returns:
        `dict`: see [`compare`]. First `run`: `weights_hash`, and for a folder that [`train`] wrote `seed` and the other
        `options` of the training, for one of [`ensemble_runs`] `seeds`; for an export its `format` and `quantize`, and the hash
        is that of its graph.

    Raises:
        FileNotFoundError: If a folder or one of its files is missing.
        ValueError: If the items differ, or split or protocol is unknown.
    """
    if (Path(run) / EXPORT_FILE).exists():
        scorer = ExportedScorer(run)
        loaded = data if isinstance(data, InteractionData) else load_data(data)
        check_vocabulary(scorer, loaded)
        facts = {"weights_hash": scorer.graph_hash()} | {name: scorer.facts[name] for name in ("format", "quantize")}
        return {"run": facts} | compare(scorer, loaded, **options)
    model, tokenizer = load_run(run)
    loaded = data if isinstance(data, InteractionData) else load_data(data)
    check_vocabulary(tokenizer, loaded)
    found: dict[str, Any] = {"weights_hash": weights_hash(run)}
    if (Path(run) / RUN_FILE).exists():
        record = read_record(run)
        given = {name: value for name, value in record.get("options", {}).items() if name != "seed"}
        seeds = [member["seed"] for member in record.get("members", [])]
        found |= {"seeds": seeds} if seeds else {"seed": record["training_arguments"]["seed"]}
        found["options"] = given
    return {"run": found} | compare(model, loaded, **options)


def check_vocabulary(tokenizer: Bert4RecTokenizer | ExportedScorer, data: InteractionData):
    r"""
    Check that data and model speak of the same items.

    Args:
        tokenizer ([`Bert4RecTokenizer`] or [`ExportedScorer`]): The model's.
        data ([`InteractionData`]): Prepared data.

    Raises:
        ValueError: If the items differ or stand in another order.
    """
    known, found = [str(item) for item in tokenizer.item_ids], data.item_ids.to_pylist()
    if known == found:
        return
    pairs = zip(known, found, strict=False)
    place = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(known), len(found)))
    here = [items[place] if place < len(items) else "nothing" for items in (known, found)]
    raise ValueError(
        f"{data.folder} was prepared with another vocabulary: {len(found)} items, the model has {len(known)}; at place "
        f"{place} the model has {here[0]!r}, the data {here[1]!r}. Prepare the log with --tokenizer and the model's folder."
    )
