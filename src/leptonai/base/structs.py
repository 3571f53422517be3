"""Makes msgspec ready for threads."""

from __future__ import annotations

from typing import Any

import msgspec


def prepare(*types: Any) -> None:
    """Build msgspec's view of these types, and of all in them, now.

    It does so at the first use otherwise, and two threads that both use a type for the first time end the process with a
    segmentation fault (msgspec 0.22). Called where the types are defined: one thread imports a module.
    """
    for one in types:
        msgspec.json.Decoder(one)
