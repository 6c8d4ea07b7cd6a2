"""
Checkpoints of other projects as a folder of ours, where the architectures agree to the last bit of meaning.

*Source:* the projects' own code, read and not run; see the modules named after them.

*Differences:* none is allowed in a score: what cannot be expressed by [`Bert4RecConfig`] is refused with the reason.
"""

from __future__ import annotations

from pathlib import Path

from ..configuration_bert4rec import FIRST_ITEM_TOKEN
from ..modeling_bert4rec import Bert4RecForMaskedLM
from ..modeling_bert4rec_causal import Bert4RecForCausalLM
from ..tokenization_bert4rec import Bert4RecTokenizer
from ..whole_file import whole_folder
from . import bert4rec_vae, recbole, rectools, replay
from .checkpoint_file import read_checkpoint
from .item_ids import read_item_ids
from .source import Converted

PROJECTS = (recbole, rectools, replay, bert4rec_vae)


def convert(
    checkpoint: str | Path, output_dir: str | Path, *, items: str | Path | None = None, overwrite: bool = False
) -> Converted:
    r"""
    Write a model of another project as a folder that `from_pretrained` and every command of ours reads.

    No code of the other project runs and none needs to be installed.

    Args:
        checkpoint (`str` or `Path`): The file that the other project's training wrote.
        output_dir (`str` or `Path`): Folder of the model; must not exist.
        items (`str` or `Path`, *optional*):
            Raw item ids in the other project's token order, where the checkpoint does not hold them: see
            [`item_ids.read_item_ids`].
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace the folder.

    Returns:
        [`Converted`]: what was written.

    Raises:
        FileExistsError: If the folder exists, or if it is to be replaced and holds the checkpoint or the items.
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, one whose scores would differ, or if the items are missing or do not fit.
    """
    reads = (checkpoint, items)
    with whole_folder(Path(output_dir), overwrite=overwrite, inputs=("data.json",), reads=reads) as partial:
        found = _read_with_items(checkpoint, items)
        _model(found).save_pretrained(partial)
        Bert4RecTokenizer.from_items(found.item_ids or []).save_pretrained(partial)
    return found


def _read_with_items(checkpoint: str | Path, items: str | Path | None) -> Converted:
    found = read_model(checkpoint)
    item_ids = found.item_ids if items is None else read_item_ids(items)
    if item_ids is None:
        raise ValueError(
            f"{checkpoint} does not hold the raw item ids of {found.source}; give them in token order with --items FILE, "
            f"one id a line. To get them: {found.items_hint}."
        )
    num_items = found.config.vocab_size - FIRST_ITEM_TOKEN
    if len(item_ids) != num_items:
        raise ValueError(
            f"There are {len(item_ids)} ids, {found.source} has {num_items} items; give one for each item, in token order, "
            "without padding and mask."
        )
    found.item_ids = item_ids
    return found


def read_model(checkpoint: str | Path) -> Converted:
    r"""
    The model in a checkpoint of another project.

    Args:
        checkpoint (`str` or `Path`): The file.

    Returns:
        [`Converted`].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, of no known project, or of a model whose scores would differ.
    """
    checkpoint = Path(checkpoint)
    content = read_checkpoint(checkpoint)
    for project in PROJECTS:
        if project.recognises(content):
            try:
                return project.converted(content, checkpoint)
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
                raise ValueError(
                    f"{checkpoint} is not laid out as its project does ({type(error).__name__}: {error}); give the file that "
                    "training wrote."
                ) from error
    raise ValueError(
        f"{checkpoint} is a checkpoint of no known project (it holds {', '.join(map(repr, sorted(map(str, content))[:5]))}); "
        "docs/08_other_projects.md in the repository lists what is read."
    )


def _model(found: Converted) -> Bert4RecForMaskedLM:
    model_class = Bert4RecForCausalLM if found.config.reading == "causal" else Bert4RecForMaskedLM
    model = model_class(found.config)
    try:
        missing, unexpected = model.load_state_dict(found.weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{found.source}: its weights do not fit its settings: {error}") from error
    tied = set(model._tied_weights_keys) if found.config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        raise ValueError(
            f"{found.source}: its weights lack {missing} or have {unexpected}; it is another architecture."
        )
    model.tie_weights()
    return model.eval()


__all__ = ["Converted", "convert", "read_model"]
