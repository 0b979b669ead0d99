"""The errors that a user is meant to see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ZsbirError(Exception):
    """Something the user can mend: one sentence that says what, where and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str = "") -> None:
        # A DataLoader raises a worker's error anew with the worker's traceback as its message: keep the sentence.
        if message.startswith("Caught ") and ".ZsbirError: " in message:
            message = message.rpartition(".ZsbirError: ")[2].strip()
        super().__init__(message)


class UnknownNameError(ZsbirError, KeyError):
    """A name that no registry entry, class or argument carries; the message lists the close matches."""

    def __str__(self) -> str:
        # KeyError would print the repr of the message.
        return str(self.args[0])


@contextmanager
def needing(what: str, package: str) -> Iterator[None]:
    """Import optional packages in a block; ZsbirError says `what` needs a missing one, and which package to install."""
    try:
        yield
    except ImportError as error:
        raise ZsbirError(f"{what} needs {error.name or error}: run `pip install '{package}'`") from None
