"""
A trained model that recommends popular items less, by a share that is chosen after training.

A softmax trained on what users took next scores an item by the logarithm of its chance, of which its popularity is a part
whatever the history. Taking a share `tau` of the logarithm of its training events off brings rarer items forward: lists become
more personal and more of the catalogue is shown, for some accuracy over the whole catalogue. Against rivals that are drawn by
popularity (`popularity-100`) the target gains instead, as the rivals lose what they were drawn for.

*Source:* Menon et al., "Long-tail Learning via Logit Adjustment" (ICLR 2021), section 4.1, post-hoc adjustment.

*Differences:* each item counts one event more than it has, so that items without any stay finite. The bias of the items carries
the adjustment: whatever ranks, exports, serves or pushes a model does it with an adjusted one.
"""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from .baselines import count_items
from .comparison import check_vocabulary
from .configuration_bert4rec import FIRST_ITEM_TOKEN
from .interactions import InteractionData, load_data
from .run_folder import RUN_FILE, check_not_adjusted, load_run, read_record, weights_hash
from .run_record import last_part
from .sequences import training_events
from .whole_file import whole_folder


def adjust_logits(model: PreTrainedModel, item_counts: np.ndarray, *, tau: float):
    r"""
    Take `tau * log(1 + count)` off the scores of each item, in place.

    Args:
        model ([`Bert4RecForMaskedLM`] or [`Bert4RecForCausalLM`]):
            Trained; further training takes the adjustment out again, little by little.
        item_counts (integer `np.ndarray` of shape `(vocab_size,)`): Training events of each token, see [`count_items`].
        tau (`float`): The share of the logarithm, above 0: 1 takes all of it.

    Raises:
        ValueError: If `tau` is not a number above 0, or there is not one count for each token.

    Example:
        >>> from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM
        >>> model = Bert4RecForMaskedLM(Bert4RecConfig(vocab_size=5))
        >>> adjust_logits(model, np.array([0, 0, 0, 0, 9]), tau=1)
        >>> [round(bias, 3) for bias in model.get_output_embeddings().bias.tolist()]
        [0.0, 0.0, 0.0, 0.0, -2.303]
    """
    _check_tau(tau)
    bias = cast(torch.Tensor, model.get_output_embeddings().bias)
    if len(item_counts) != len(bias):
        raise ValueError(
            f"The model has {len(bias)} tokens, item_counts {len(item_counts)}; count the model's own items."
        )
    with torch.no_grad():
        bias -= torch.from_numpy(_adjustment(item_counts, tau)).to(bias)


def adjust_run(
    run: str | Path, data: InteractionData | str | Path, output_dir: str | Path, *, tau: float, overwrite: bool = False
) -> Path:
    r"""
    Write a run anew with its scores adjusted: model, tokenizer, and a record that says so.

    Args:
        run (`str` or `Path`): Folder that [`train`] or [`ensemble_runs`] wrote.
        data ([`InteractionData`], `str` or `Path`): What the run was trained on, or its folder; only training events count.
        output_dir (`str` or `Path`): The folder to write.
        tau (`float`): See [`adjust_logits`].
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace the folder.

    Returns:
        `Path`: the folder.

    Raises:
        FileExistsError: If the folder exists, or holds the run.
        FileNotFoundError: If the run or the data or one of their files is missing.
        ValueError: If `tau` is not a number above 0, the run is adjusted already, or it was trained on other data.

    Example:
        ```python
        >>> adjust_run("run", "data", "run-adjusted", tau=0.25)  # doctest: +SKIP
        PosixPath('run-adjusted')
        ```
    """
    _check_tau(tau)
    model, tokenizer = load_run(run)
    record, output_dir = read_record(run), Path(output_dir)
    loaded = data if isinstance(data, InteractionData) else load_data(data)
    check_not_adjusted(run, record)
    check_vocabulary(tokenizer, loaded)
    if record.get("data_hash") not in (None, loaded.content_hash()):
        raise ValueError(
            f"{run} was trained on other data than {loaded.folder}; give the data that it was trained on."
        )
    with whole_folder(output_dir, overwrite=overwrite, inputs=("data.json",), reads=(run, loaded.folder)) as partial:
        adjust_logits(model, count_items(training_events(loaded)[0], model.config.vocab_size), tau=tau)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        words = ["hf-bert4rec", "adjust", last_part(run), "--data", last_part(loaded.folder), "--tau", f"{tau:g}"]
        command = shlex.join([*words, "--output_dir", last_part(output_dir)])
        record |= {
            "commands": [*record.get("commands", []), command],
            "options": record.get("options", {}) | {"tau": tau},
            "adjusts": weights_hash(run),
        }
        (partial / RUN_FILE).write_text(json.dumps(record, indent=2))
    return output_dir


def _check_tau(tau: float):
    if not (math.isfinite(tau) and tau > 0):
        raise ValueError(f"tau is {tau}; give a number above 0, such as 0.25.")


def _adjustment(item_counts: np.ndarray, tau: float) -> np.ndarray:
    """What comes off the score of each token; special tokens, which are never ranked, keep theirs."""
    found = tau * np.log1p(item_counts.astype(np.float64))
    found[:FIRST_ITEM_TOKEN] = 0
    return found
