"""
The content of another project's checkpoint, read without any code of that project.

*Source:* `torch.load(weights_only=True)`; files that name classes of their project are read by `inert_pickle`.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from . import inert_pickle

ZIP_START = b"PK\x03\x04"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    r"""
    What a file of `torch.save` or `pickle.dump` holds.

    Args:
        path (`str` or `Path`): The file.

    Returns:
        `dict`: its content, or the attributes of the one object in it; objects of other projects are
        [`inert_pickle.Placeholder`], tensors are on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the checkpoint file in it.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}; check the path.")
    with path.open("rb") as file:
        content = read_objects(file, path)
    if isinstance(content, inert_pickle.Placeholder):
        content = vars(content) | dict(content)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a checkpoint; give the file that training wrote."
        )
    return content


def read_objects(file: BinaryIO, path: Path) -> Any:
    """The one object in an open file, whatever it is; errors name `path`."""
    try:
        # `zipfile.is_zipfile` would also say yes to a pickle that holds a zip file.
        is_zip = file.read(len(ZIP_START)) == ZIP_START
        return _read_zip(file) if is_zip else _read_other(file)
    # A damaged or hostile file may make the readers raise anything.
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({error}); give the file that training wrote."
        ) from error


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ValueError("it is a TorchScript program")
    try:
        return _weights_only(file)
    except pickle.UnpicklingError:  # names classes that torch does not know, or has a protocol that it does not read
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=inert_pickle)


def _read_other(file: BinaryIO) -> Any:
    """A file of `pickle.dump`, or of `torch.save` before torch 1.6."""
    try:
        return _weights_only(file)
    except Exception:  # of several kinds, where torch finds no magic number of its own
        file.seek(0)
        return inert_pickle.load(file)


def _weights_only(file: BinaryIO) -> Any:
    file.seek(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(file, map_location="cpu", weights_only=True)


__all__ = ["read_checkpoint", "read_objects"]
