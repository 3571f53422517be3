"""The inside of `lep run`: executes somebody's script as `python script.py` would, and watches Keras while it runs.

    python -m leptonai.train.script SCRIPT ARGS…

The script sees itself as `__main__`, its own folder first in `sys.path` and its own arguments; its exit status is ours. What it
trained with Keras is published when it ends well.
"""

from __future__ import annotations

import ast
import importlib.abc
import os
import sys
import traceback
import types
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ..base.errors import LeptonError
from . import without_tensorflow

DATASET = "LEPTON_RUN_DATASET"
PUBLISH = "LEPTON_RUN_PUBLISH"
"""Name of the model that the script's training becomes; empty: do not publish."""
WITHOUT_TENSORFLOW = "Note: TensorFlow is not installed; `tensorflow.keras` is Keras 3 here, which is the same Keras."


def main(arguments: list[str]) -> int:
    script, *rest = arguments
    # Into a pipe Python would write blocks, or the words of a line one by one; whoever watches wants lines.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=False)
    watch = _WatchKeras()
    sys.meta_path.insert(0, watch)
    status = execute(script, rest)
    if watch.tracker is not None:
        watch.tracker.close()
    if status == 0 and watch.tracker is not None:
        try:
            watch.tracker.finish(os.environ.get(PUBLISH) or None, os.environ.get(DATASET) or None)
        except LeptonError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.exit_code
    return status


def execute(script: str, arguments: list[str]) -> int:
    """Run the file as `__main__`; return its exit status. Its traceback shows its own frames only."""
    module = types.ModuleType("__main__")
    module.__file__, module.__builtins__ = script, __builtins__
    sys.modules["__main__"] = module
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    try:
        with open(script, "rb") as file:
            code = compile(_parse(file.read(), script), script, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102
    except SystemExit as stop:
        return _exit_status(stop)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except LeptonError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except BaseException as error:
        _print_own_frames(error)
        return 1
    return 0


def _parse(source: bytes, script: str) -> ast.Module:
    tree = ast.parse(source, script)
    if without_tensorflow.is_missing() and without_tensorflow.rename_imports(tree):
        print(WITHOUT_TENSORFLOW, file=sys.stderr)
    return tree


def _exit_status(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return int(stop.code or 0) & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _print_own_frames(error: BaseException) -> None:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)


class _WatchKeras(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets `import keras` (or `tensorflow.keras`, which is the same Keras 3) happen, then attaches the tracker to it.

    A hook, not an import: a script without Keras does not pay for it.
    """

    def __init__(self) -> None:
        self.tracker: Any = None
        self._spec: ModuleSpec | None = None

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "keras" or self._spec is not None:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        self._spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if self._spec is None or self._spec.loader is None:
            return None
        spec = ModuleSpec(name, self, origin=self._spec.origin, is_package=True)
        spec.submodule_search_locations = self._spec.submodule_search_locations
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._spec.loader.create_module(self._spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__, module.__loader__, module.__file__ = self._spec, self._spec.loader, self._spec.origin
        self._spec.loader.exec_module(module)
        from .keras import Tracker

        self.tracker = Tracker.attach(module)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
