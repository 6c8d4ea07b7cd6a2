"""
The folder of a run: whole or absent. It is made as `RUN.partial`, where a stopped run resumes, and renamed at the end.

*Source:* none; `Trainer` writes `checkpoint-N` in place, `trainer_state.json` last.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .configuration_bert4rec import FIRST_ITEM_TOKEN, Bert4RecConfig
from .error_text import one_line
from .interactions import InteractionData, load_data, prepare
from .modeling_bert4rec import Bert4RecForMaskedLM
from .tokenization_bert4rec import Bert4RecTokenizer
from .whole_file import OPTIONS_FILE, check_not_inside, check_replaceable, write_whole_file

RUN_FILE = "run.json"
RECORD_FORMAT = "hf_bert4rec-run"
SESSIONS_FILE = "sessions.json"


def load_run(folder: str | Path) -> tuple[Bert4RecForMaskedLM, Bert4RecTokenizer]:
    r"""
    Model and tokenizer of a folder that [`train`] or `save_pretrained` wrote.

    Args:
        folder (`str` or `Path`): The folder.

    Returns:
        `tuple`: [`Bert4RecForMaskedLM`] in evaluation mode and [`Bert4RecTokenizer`].

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If it holds a model that is not BERT4Rec, or files that are damaged or do not belong together.
    """
    folder = Path(folder)
    check_run(folder)
    try:
        model, found = Bert4RecForMaskedLM.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except SafetensorError as error:
        raise ValueError(f"{folder / 'model.safetensors'} is damaged ({error}); copy the model again.") from error
    for kind in ("mismatched", "missing", "unexpected"):
        # `from_pretrained` would draw such weights at random, or leave them out.
        if keys := sorted(key if isinstance(key, str) else key[0] for key in found[f"{kind}_keys"]):
            raise ValueError(
                f"The weights in {folder} are not those of its config.json ({len(keys)} {kind}, such as {keys[0]}); copy the "
                "model again."
            )
    try:
        tokenizer = Bert4RecTokenizer.from_pretrained(folder)
    except Exception as error:  # of any kind: files are read by several libraries
        raise ValueError(
            f"The tokenizer in {folder} cannot be read ({one_line(error)}); copy the model again."
        ) from error
    num_items = model.config.vocab_size - FIRST_ITEM_TOKEN
    if tokenizer.num_items != num_items:
        raise ValueError(
            f"The model in {folder} has {num_items} items, its tokenizer {tokenizer.num_items}; copy the two that belong "
            "together."
        )
    return model.eval(), tokenizer


def check_run(folder: Path):
    """Whether a folder holds a whole BERT4Rec and its tokenizer; what is wrong is raised as by [`load_run`]."""
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        hint = (
            f"{partial} is an unfinished run: repeat its command to finish it"
            if partial.is_dir()
            else "check the path"
        )
        raise FileNotFoundError(f"There is no folder {folder}; {hint}.")
    if folder.name.endswith(".partial") and (folder / OPTIONS_FILE).exists():
        raise ValueError(f"{folder} is an unfinished run; repeat the command that began it.")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        # Weights of several gigabytes are saved in parts, with an index instead of the one file.
        if not (folder / name).exists() and not (folder / f"{name}.index.json").exists():
            raise FileNotFoundError(f"{folder} has no {name}; give the folder of a trained model, or train it again.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} cannot be read: {error}; copy the model again.") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type != Bert4RecConfig.model_type:
        raise ValueError(
            f"{folder} holds a model of type {model_type!r}, not 'bert4rec'; give the folder of a BERT4Rec."
        )


def read_record(folder: str | Path) -> dict[str, Any]:
    r"""
    The record that [`train`] left in the folder of a run.

    Args:
        folder (`str` or `Path`): The folder.

    Returns:
        `dict`: see [`run_record.run_record`]; runs of older versions recorded less.

    Raises:
        FileNotFoundError: If the folder has no record.
        ValueError: If it cannot be read.
    """
    file = Path(folder) / RUN_FILE
    if not file.exists():
        raise FileNotFoundError(f"{folder} has no {RUN_FILE}; give the folder of a run of hf-bert4rec train.")
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}; copy the run again.") from error
    if not isinstance(record, dict) or record.get("format") != RECORD_FORMAT:
        raise ValueError(f"{file} is not the record of a run (format is not {RECORD_FORMAT!r}); copy the run again.")
    return record


def check_not_adjusted(folder: str | Path, record: dict[str, Any]):
    """Refuse to learn from a run whose scores [`adjust_run`] has changed: they are not what training would find."""
    if (tau := record.get("options", {}).get("tau")) is not None:
        raise ValueError(f"{folder} is adjusted by {tau:g}; give the run that it was made of.")


def weights_hash(folder: str | Path) -> str:
    """SHA-256 of the weights in a folder, which tells which model a figure belongs to."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def check_output(output_dir: Path, overwrite: bool, reads: Iterable[Any]):
    """
    Refuse what a run may not take the place of: as [`check_replaceable`], but a model goes with all that is beside it, unless
    the run reads it.
    """
    if not (overwrite and (output_dir / "config.json").exists()):
        check_replaceable(output_dir, overwrite=overwrite, inputs=("data.json",))
    folders = [read.folder if isinstance(read, InteractionData) else read for read in reads]
    check_not_inside(output_dir, [folder for folder in folders if isinstance(folder, (str, Path))])


def data_of_run(
    data: Any, output_dir: Path, options: dict[str, Any], *, overwrite: bool, is_first: bool
) -> InteractionData:
    r"""
    The prepared data of a run; a log is prepared into `output_dir + ".data"`.

    Args:
        data ([`InteractionData`], path or log): Prepared data, its folder, or a log that [`prepare`] reads.
        output_dir (`Path`): Folder of the run.
        options (`dict`): Those of [`prepare`].
        overwrite (`bool`): Whether data of an earlier run may be replaced.
        is_first (`bool`): Whether this process prepares; the others find what it has prepared.

    Returns:
        [`InteractionData`]

    Raises:
        ValueError: If there are options for data that is prepared, or a stopped run was begun with another log.
    """
    if isinstance(data, InteractionData):
        return data
    if isinstance(data, (str, Path)) and Path(data).is_dir():
        if options:
            raise ValueError(f"{data} is prepared already; {', '.join(options)} can only be given with a log.")
        return load_data(data)
    folder, partial = (output_dir.with_name(f"{output_dir.name}.{part}") for part in ("data", "partial"))
    if not is_first:
        return load_data(folder)
    if overwrite or not (folder.exists() and partial.exists()) or last_checkpoint(partial) is None:
        return prepare(data, folder, overwrite=overwrite or partial.exists(), **options)
    # A stopped run goes on with what it has read; whether that is this log is known once the log is read again.
    with tempfile.TemporaryDirectory(prefix=f"{output_dir.name}.", dir=output_dir.parent) as scratch:
        found = prepare(data, Path(scratch) / "data", **options).content_hash()
    known = load_data(folder)
    if found != known.content_hash():
        name = data if isinstance(data, (str, Path)) else "this log"
        raise ValueError(
            f"{partial} was begun with other events than {name} gives; repeat the same log and options to resume, or give "
            "--overwrite_output_dir to begin anew."
        )
    return known


def begin(partial: Path, options: dict[str, Any], data: InteractionData, overwrite: bool):
    """
    Make the folder of an unfinished run, or check that the one there was begun with the same options and data. One that has
    no checkpoint holds nothing to go on from, and is begun anew.
    """
    begun = json.loads(json.dumps(options | {"data_hash": data.content_hash()}, default=str))
    file = partial / OPTIONS_FILE
    found = json.loads(file.read_text()) if _is_json(file) else None
    if found == begun:
        return
    if found is not None and not overwrite and last_checkpoint(partial) is not None:
        name = next(name for name in found | begun if found.get(name) != begun.get(name))
        how = f"with {name} {found.get(name, 'by default')}, now it is {begun.get(name, 'by default')}"
        raise ValueError(
            f"{partial} was begun {'on other data' if name == 'data_hash' else how}; repeat the same options and data to resume, "
            "or give --overwrite_output_dir to begin anew."
        )
    if found is not None:
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_whole_file(file, json.dumps(begun))


def last_checkpoint(partial: Path) -> str | None:
    """The newest whole checkpoint; `trainer_state.json` is written last, so a folder without it does not count."""
    whole = [path for path in partial.glob("checkpoint-*") if _is_json(path / "trainer_state.json")]
    for path in set(partial.glob("checkpoint-*")) - set(whole):
        shutil.rmtree(path)
    return str(max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]))) if whole else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return True


def finish(partial: Path, output_dir: Path):
    """The rename makes the folder whole at once; after it only what belongs to the model stays."""
    old = Path(tempfile.mkdtemp(dir=output_dir.parent)) / output_dir.name
    try:
        if output_dir.exists():
            output_dir.rename(old)
        try:
            partial.rename(output_dir)
        except BaseException:
            if old.exists():
                old.rename(output_dir)
            raise
    finally:
        shutil.rmtree(old.parent)
    for path in output_dir.glob("checkpoint-*"):
        shutil.rmtree(path)
    (output_dir / OPTIONS_FILE).unlink()
    (output_dir / SESSIONS_FILE).unlink(missing_ok=True)
