"""
Pickles read as data: what another project's pickle names is never imported and never called.

*Source:* `pickle`, "Restricting Globals": every name in a pickle comes through `find_class`. This module can be given to
`torch.load` as its `pickle_module`.

*Differences:* a name that is not on the short list of what builds tensors and arrays is not refused but stands for an empty
placeholder class, so that a checkpoint with its project's objects inside can be read where that project is not installed.
"""

from __future__ import annotations

import functools
import pickle
from typing import Any

import numpy as np
import torch


class Placeholder(dict):
    """What stands for an object of another project: it keeps what the pickle says of it and does nothing."""

    def __init__(self, *arguments: Any, **options: Any):
        self.arguments = arguments

    # An object that was no dictionary may be the key of one.
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def append(self, value: Any):
        """A list's items are not kept."""

    extend = add = append


class Unpickler(pickle.Unpickler):
    """Builds tensors, arrays and plain values; everything else becomes a [`Placeholder`]."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        array: Any = np.empty(0).__reduce__()[0]
        scalar: Any = np.float64(0).__reduce__()[0]
        # A pickle may set attributes of what it is given: it gets wrappers of its own.
        self.found: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): functools.partial(torch._utils._rebuild_tensor_v2),
            ("torch._utils", "_rebuild_parameter"): functools.partial(torch._utils._rebuild_parameter),
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # numpy 1 and 2
            self.found[module, "_reconstruct"] = functools.partial(array)
            self.found[module, "scalar"] = functools.partial(scalar)

    def find_class(self, module: str, name: str) -> Any:
        """As in `pickle.Unpickler`, but nothing is imported."""
        if (module, name) not in self.found:
            self.found[module, name] = type(name, (Placeholder,), {"__module__": module})
        return self.found[module, name]


def load(file: Any, **options: Any) -> Any:
    r"""
    As `pickle.load`.

    Args:
        file (binary file): Holds one pickle.
        options: Of `pickle.Unpickler`.

    Returns:
        The object, with a [`Placeholder`] for each object of another project.

    Raises:
        Exception: Of any kind, if the file is no pickle or does what placeholders cannot.

    Example:
        >>> import io, pickle
        >>> load(io.BytesIO(b"cos\nsystem\n(S'echo'\ntR."))
        {}
        >>> load(io.BytesIO(pickle.dumps({"n_layers": 2})))
        {'n_layers': 2}
    """
    return Unpickler(file, **options).load()


__all__ = ["Placeholder", "Unpickler", "load"]
