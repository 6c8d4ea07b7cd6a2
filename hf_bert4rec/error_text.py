"""What an error says to people, in one line."""

from __future__ import annotations

import errno

from huggingface_hub.errors import StrictDataclassError


def one_line(error: BaseException) -> str:
    """What is wrong, without the lines that a library put around it."""
    while isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and "free some" not in str(error):
        return "no space left on device; free some and repeat the command"
    return " ".join(str(error).split())
