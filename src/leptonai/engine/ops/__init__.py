"""The operations of a language model: `select()` gives the fastest implementation that runs here, `ref` is the oracle of all."""

from __future__ import annotations

from types import ModuleType


def select(name: str | None = None) -> ModuleType:
    """`cpu` (native kernels) where they are built and this CPU can, else `ref` (torch). Both have the same functions.

    `LEPTON_ISA=ref` chooses torch; `avx2`, `avx512` and `avx512bf16` choose among the kernels. `name` asks for one: Unavailable
    says what is missing.
    """
    from . import native

    if name == "ref" or (name is None and not native.available()):
        from . import ref

        return ref
    native.library()
    from . import cpu

    return cpu
