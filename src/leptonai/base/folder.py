"""A folder named like the function in it: `la.train(recipe)` and `la.train.keras` both work, whichever was imported first.

Without this, `la.train` would be the function or the package, by the accident of what another import had loaded.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class CallableFolder(ModuleType):
    """A package that can be called; its modules are attributes, imported on use."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        module = importlib.import_module(f".{self._function_in}", self.__name__)
        return getattr(module, self.__name__.rpartition(".")[2])(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            try:
                return importlib.import_module(f".{name}", self.__name__)
            except ModuleNotFoundError as error:
                if error.name != f"{self.__name__}.{name}":
                    raise
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def make_callable(package: str, module: str) -> None:
    """`package(…)` calls the function of `module` that is named like the package."""
    folder = sys.modules[package]
    folder._function_in = module
    folder.__class__ = CallableFolder
