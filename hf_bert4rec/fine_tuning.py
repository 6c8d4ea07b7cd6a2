"""
The trained model that a run continues: where it comes from, and what of it a run takes over.

*Source:* Transformers' fine-tuning: `from_pretrained`, then the same `Trainer`.
*Differences:* the catalogue changes with the data, see `catalogue.py`; how sequences are hidden and windowed is taken from
the record of the model's own training, where it has one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from .catalogue import STARTS, Vectors, read_vectors, take_weights
from .configuration_bert4rec import Bert4RecConfig
from .interactions import InteractionData
from .modeling_bert4rec import Bert4RecForMaskedLM
from .run_folder import RUN_FILE, check_not_adjusted, load_run, read_record, weights_hash

# Fields of the configuration that may change: they fix no weight and no score.
FREE_FIELDS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "reading",
    "training_loss",
    "num_negatives",
    "share_negatives",
    "gbce_t",
)
# What of a record is taken over, the objective first.
SEQUENCE_FIELDS = (
    "causal_probability",
    "recipe",
    "mlm_probability",
    "last_item_probability",
    "mask_replace_prob",
    "random_replace_prob",
    "window",
)
CAUSAL_SHARES = {"masked": 0.0, "both": 0.5, "causal": 1.0}


@dataclass
class StartOptions:
    """Where a run starts: a new model, or a trained one with other items; see [`catalogue.change_catalogue`]."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "Continue this trained model, a folder or a name on the Hub. Architecture and objective are its own; its "
            "items become those of the log: new ones are added, those that the log does not hold are retired."
        },
    )
    new_items: str = field(
        default="neighbours",
        metadata={
            "help": f"Where items start that --model does not know: {', '.join(STARTS)}; or a Parquet file of vectors, such as "
            "embeddings of texts, with the columns item_id and vector."
        },
    )


class StartModel:
    r"""
    A trained model that a run continues.

    Args:
        name (`str` or `Path`): Its folder, or its name on the Hub.
        new_items: See [`catalogue.change_catalogue`].

    Raises:
        OSError: If there is no such model, or if a file of it is missing.
        ValueError: If it is no BERT4Rec, or if `new_items` cannot be used.
    """

    def __init__(self, name: str | Path, new_items: str | Path | Mapping[Any, Any] = "neighbours"):
        read_vectors(new_items)  # what cannot be used is refused before a log is prepared
        self.name, self.new_items, self.folder = str(name), new_items, folder_of(name)
        self.model, self.tokenizer = load_run(self.folder)
        if (self.folder / RUN_FILE).exists():
            check_not_adjusted(name, read_record(self.folder))
        hub_model = None if self.folder == Path(name) else self.name
        # What the record of the run says of its start. Of a path it keeps the last part.
        self.facts: dict[str, Any] = {"model": hub_model or self.folder.name, "hub_model": hub_model}
        self.facts["weights_hash"] = weights_hash(self.folder)

    def options(self, names: Iterable[str], *, with_recipe: bool) -> dict[str, Any]:
        r"""
        Options of a run that continues it.

        Args:
            names (iterable of `str`): Names of fields of its configuration.
            with_recipe (`bool`): Whether to go on with its recipe and its sequences too, where its record tells them.

        Returns:
            `dict`: architecture and objective, and what was asked for.
        """
        config = self.model.config
        # The reading follows from the objective.
        architecture = {name: getattr(config, name) for name in names if name != "reading"}
        record = read_record(self.folder) if (self.folder / RUN_FILE).exists() else {"sequence_options": {}}
        sequences = {"causal_probability": CAUSAL_SHARES[config.reading]} | record["sequence_options"]
        kept = SEQUENCE_FIELDS if with_recipe else SEQUENCE_FIELDS[:1]
        return architecture | {name: sequences[name] for name in kept if name in sequences}

    def check(self, options: Mapping[str, Any]):
        """Refuse options that contradict the model."""
        for name in Bert4RecConfig.__annotations__:
            found = getattr(self.model.config, name)
            if name in options and name not in FREE_FIELDS and options[name] != found:
                raise ValueError(
                    f"{name} is {options[name]!r}, but the model {self.name} has {found!r}; leave it out, or train without "
                    "--model."
                )

    def continue_as(self, model: Bert4RecForMaskedLM, data: InteractionData):
        """Give a new model of the data's items the weights of this one."""
        self.facts |= take_weights(model, self.model, self.tokenizer, data, new_items=self.new_items)


def start_of(options: Mapping[str, Any]) -> StartModel | None:
    r"""
    The model that a run continues.

    Args:
        options (mapping): Those of [`train`].

    Returns:
        [`StartModel`] or `None`: `None` for a new model.

    Raises:
        OSError: See [`StartModel`].
        ValueError: See [`StartModel`]; or if there are new items, but no model that could lack them.
    """
    given = {field.name: options[field.name] for field in fields(StartOptions) if field.name in options}
    if given.get("model") is not None:
        return StartModel(given.pop("model"), **given)
    if "new_items" in given:
        raise ValueError("new_items says where items start that a trained model does not know; give model too.")
    return None


def noted(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a run as files hold them: of vectors in memory their number and a checksum."""
    if not isinstance(options.get("new_items"), Mapping):
        return options
    rows, vectors = cast(Vectors, read_vectors(options["new_items"]))
    checksum = zlib.crc32(vectors.tobytes(), zlib.crc32("\n".join(rows).encode()))
    return options | {"new_items": f"{len(vectors)} vectors of size {vectors.shape[1]} ({checksum:08x})"}


def folder_of(name: str | Path) -> Path:
    r"""
    The folder of a model.

    Args:
        name (`str` or `Path`): A folder, or a name on the Hub.

    Returns:
        `Path`: the folder itself, or that of the Hub's cache.

    Raises:
        FileNotFoundError: If there is neither.
    """
    folder = Path(name)
    if folder.is_dir() or folder.with_name(folder.name + ".partial").is_dir():
        return folder
    try:
        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError):
        raise FileNotFoundError(
            f"There is no folder {name}, and no model of that name on the Hub that can be reached; check the name."
        ) from None
