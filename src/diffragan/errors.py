"""The one exception that users meet: a plain sentence that names the thing and the remedy."""

from __future__ import annotations


class DiffraganError(Exception):
    """Bad input or an impossible request.

    The message is one plain sentence. The command line prints it and exits with code 2.
    """
