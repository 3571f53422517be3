"""Scripts that say `tensorflow.keras` where TensorFlow is not installed: Keras 3 is the same Keras, on torch. Owns their imports' new names.

Only the script's own imports are renamed, when it is compiled: a module named `tensorflow` would mislead the libraries that look for one.
As a module this is what such a script knows as `tf`.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any


def is_missing() -> bool:
    return find_spec("tensorflow") is None


def __getattr__(name: str) -> Any:
    """`tf.keras`, `tf.random.set_seed` and `tf.__version__`; of anything else, what to do."""
    if name.startswith("__") and name != "__version__":
        raise AttributeError(name)
    import keras

    match name:
        case "keras":
            return keras
        case "random":
            return SimpleNamespace(set_seed=keras.utils.set_random_seed)
        case "__version__":
            return f"absent, Keras {keras.__version__} on {keras.backend.backend()}"
    raise AttributeError(
        f"TensorFlow is not installed, so there is no tf.{name}; Lepton runs tf.keras alone. Use what Keras 3 has (keras.ops), "
        "or install TensorFlow beside Lepton."
    )


def rename_imports(tree: ast.Module) -> bool:
    """Let the imports of `tensorflow` and `tensorflow.keras…` in `tree` mean Keras 3; return whether there were any."""
    renamer = _Renamer()
    renamer.visit(tree)
    return renamer.found


class _Renamer(ast.NodeTransformer):
    def __init__(self) -> None:
        self.found = False

    def visit_Import(self, node: ast.Import) -> ast.Import:
        for alias in node.names:
            if alias.name == "tensorflow" or (alias.name.startswith("tensorflow.keras") and alias.asname is None):
                alias.name, alias.asname = __name__, alias.asname or "tensorflow"
            elif alias.name.startswith("tensorflow."):
                alias.name = self._renamed(alias.name)
            else:
                continue
            self.found = True
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module and node.module.split(".")[0] == "tensorflow":
            node.module = __name__ if node.module == "tensorflow" else self._renamed(node.module)
            self.found = True
        return node

    def _renamed(self, module: str) -> str:
        keras = "tensorflow.keras"
        return module.removeprefix("tensorflow.") if module == keras or module.startswith(f"{keras}.") else module
