"""The one exception that users meet: a plain sentence that names the thing and the remedy."""

from __future__ import annotations


class DiffraganError(Exception):
    """Bad input or an impossible request.

    The message is one plain sentence. The command line prints it and exits with code 2.
    """


def one_line(error: Exception) -> str:
    """An error of another package, which may have no text or several lines, for such a sentence."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
