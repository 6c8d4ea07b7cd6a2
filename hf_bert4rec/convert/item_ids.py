"""
Raw item ids from a file beside a checkpoint, in token order.

*Source:* none.
"""

from __future__ import annotations

import json
from pathlib import Path

from . import bert4rec_vae, recbole, replay

PICKLE_START = b"\x80"


def read_item_ids(path: str | Path) -> list[str | int]:
    r"""
    The ids of a catalogue.

    Args:
        path (`str` or `Path`):
            Text with one id a line, a JSON list, a data set that RecBole or BERT4Rec-VAE-Pytorch saved, or the folder of a
            tokenizer that RePlay saved.

    Returns:
        `list`: ids of the items alone, without padding and mask.

    Raises:
        OSError: If there is no such file.
        ValueError: If it holds something else.
    """
    path = Path(path)
    if path.is_dir():
        return replay.tokenizer_item_ids(path / replay.TOKENIZER_FILE)
    data = path.read_bytes()
    if data.startswith(PICKLE_START):
        return bert4rec_vae.dataset_item_ids(path) or list(recbole.dataset_item_ids(path))
    try:
        text = data.decode("utf-8-sig")
        if not text.lstrip().startswith("["):
            return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is neither text nor a JSON list ({error}); give one id a line.") from error


__all__ = ["read_item_ids"]
