"""The house stands: imports go down, names are handed on lazily, and no unsafe loader is in the tree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "leptonai"
LIBRARY = ["data", "zoo", "nets", "tasks", "train", "evaluate", "trust", "engine", "state", "photon", "edge"]
MAY_IMPORT = {
    "base": set(),
    "client": {"base"},
    "cloud": {"base"},
    "market": {"base", "cloud"},
    "cli": {"base", "client", "cloud", "market", *LIBRARY},
    "util": {"base", "photon"},
    "services": {"base", "client", *LIBRARY},
    **{folder: {"base", *LIBRARY[:position]} for position, folder in enumerate(LIBRARY)},
}
# The client imports only base, so it lies below the library: state and photons speak to the workspace's server through it.
MAY_IMPORT["state"] = {"base", "client"}
MAY_IMPORT["photon"] |= {"client"}
# Loaders that run code from what they read. `torch.load`/`np.load` are absent too: weights are safetensors, arrays are raw.
UNSAFE = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def folder_imports(path: Path) -> set[str]:
    """Folders of `leptonai` that the file imports, wherever in it."""
    package = ["leptonai", *path.relative_to(SOURCE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            modules = [module] if node.module else [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {
            module[1]
            for module in modules
            if len(module) > 1 and module[0] == "leptonai" and (SOURCE / module[1]).is_dir()
        }
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize(
    "path", [file for file in FILES if file.parent != SOURCE], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_imports_go_down(path):
    folder = path.relative_to(SOURCE).parts[0]
    upward = folder_imports(path) - MAY_IMPORT[folder] - {folder}
    assert not upward, f"{folder}/ may not import {', '.join(sorted(upward))}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_is_unpickled(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not UNSAFE & {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in UNSAFE
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            call = f"{node.func.value.id}.{node.func.attr}"
            assert call not in {"torch.load", "yaml.load", "yaml.unsafe_load"}, f"{call} in line {node.lineno}"
            if call in {"np.load", "numpy.load"}:
                assert any(k.arg == "allow_pickle" and k.value.value is False for k in node.keywords), (
                    f"line {node.lineno}"
                )


def test_import_and_help_load_nothing_heavy():
    code = "import sys, leptonai; from leptonai.cli.main import lep; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pyarrow", "lance", "pydantic", "httpx", "rich", "pandas"} & set(loaded)


def test_every_public_name_exists():
    import leptonai

    for name in leptonai.__all__:
        assert getattr(leptonai, name) is not None
