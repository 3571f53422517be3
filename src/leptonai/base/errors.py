"""The errors a person reads. Every one says what happened, what was received, what was expected and what to do next.

Only `LeptonError` and its children may reach a user: the command line prints `str(error)` and exits with `exit_code`,
a server answers with `status` and `to_dict()`.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class LeptonError(Exception):
    """`what` is a clause without a full stop; `fix` is a command or an imperative. All are shown to the user."""

    status = 500
    exit_code = 1

    def __init__(self, what: str, *, received: Any = None, expected: str | None = None, fix: str | None = None):
        self.what, self.received, self.expected, self.fix = what, received, expected, fix
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what
        if self.received is not None:
            text += f": received {shorten(self.received)}"
        if self.expected:
            text += f"{',' if self.received is not None else ':'} expected {self.expected}"
        return f"{text}. {self.fix}" if self.fix else text

    def to_dict(self) -> dict[str, Any]:
        parts = {"error": str(self), "code": type(self).__name__, "fix": self.fix}
        return {key: value for key, value in parts.items() if value is not None}


class InvalidInput(LeptonError):
    """What the user gave cannot be meant: a bad value, file, column, key or flag."""

    status, exit_code = 400, 2


class NotFound(LeptonError):
    status, exit_code = 404, 3


class Conflict(LeptonError):
    """The name is taken, or the object has changed since it was read."""

    status, exit_code = 409, 4


class Refused(LeptonError):
    """It would be unsafe: a pickle, a path outside its folder, an archive that unpacks to more than it may."""

    status, exit_code = 403, 5


class Corrupt(LeptonError):
    """Bytes on disk are not what was written: a hash differs, a file is cut short."""

    status, exit_code = 500, 6


class DiskFull(LeptonError):
    status, exit_code = 507, 7


class Unavailable(LeptonError):
    """Something that is needed does not answer or is not installed."""

    status, exit_code = 503, 8


class Unauthenticated(LeptonError):
    """There is no credential, or not one that is valid now."""

    status, exit_code = 401, 9


class TooMany(LeptonError):
    """A limit was reached; `retry_after_s` says when to try again."""

    status, exit_code = 429, 10
    retry_after_s = 1


class Missing(Unavailable):
    """An optional package is not installed; `extra` names what to install."""

    def __init__(self, package: str, extra: str):
        super().__init__(f"{package} is not installed", fix=f"Install it with: pip install 'lepton-platform[{extra}]'.")


def shorten(value: Any, limit: int = 80) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name closest to `word`, or None if none is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'epochs'?`, or the list of what there is."""
    names = list(known)
    close = nearest(word, names)
    if close:
        return f"Did you mean {close!r}?"
    return f"There is: {', '.join(sorted(names)) or 'nothing yet'}."


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full disk into `DiskFull`, so that a write is either durable or refused with a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"the disk is full; {what} was not written and nothing already stored was touched",
                fix="Free space, or move LEPTON_HOME to a larger disk, and run the command again.",
            ) from error
        raise
