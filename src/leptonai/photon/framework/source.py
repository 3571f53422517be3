"""A photon's class from source: a file, a module, or a git repository. Importing runs the code: it has to be the user's own."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from ...base.errors import InvalidInput, NotFound, Refused, Unavailable, did_you_mean
from ...base.home import Home
from ...base.paths import resolve_within
from .photon import Photon

_GIT = re.compile(
    r"(?P<url>(?:https?|ssh|file)://[^\s]+?|git@[^\s:]+:[^\s]+?)(?P<git>\.git)?(?:@(?P<rev>[A-Za-z0-9._/-]+))?(?::(?P<path>[^:]+\.py))?(?::(?P<cls>\w+))?\Z"
)
CLONE_TIMEOUT_S = 300


def import_file(path: Path) -> ModuleType:
    """The module of a file, imported once a file; its folder can be imported from, as if the file had been run."""
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise NotFound("there is no such Python file", received=str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidInput("this is no Python file", received=str(path))
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def class_of(module: ModuleType, name: str | None) -> type[Photon]:
    """The photon class of that name (dots: nested), or the only one that the module defines itself."""
    if name:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if not (isinstance(found, type) and issubclass(found, Photon)):
            known = [key for key, value in vars(module).items() if _is_photon(value)]
            raise NotFound(f"{module.__name__} has no photon class {name!r}", fix=did_you_mean(name, known))
        return found
    own = [value for value in vars(module).values() if _is_photon(value) and value.__module__ == module.__name__]
    own = [
        one for one in own if not any(one is not other and issubclass(other, one) for other in own)
    ]  # bases are not meant
    if len(own) != 1:
        raise InvalidInput(
            f"the file has {len(own)} photon classes",
            received=", ".join(one.__name__ for one in own) or None,
            fix="Name one: FILE.py:CLASS.",
        )
    return own[0]


def _is_photon(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Photon) and value is not Photon


def python_class(text: str, home: Home | None = None) -> type[Photon]:
    """`path.py[:Class]`, `module.Class`, or `URL[.git][@revision][:path.py][:Class]`."""
    if (match := _GIT.match(text)) and (match["git"] or match["path"]):
        folder = clone(match["url"] + (match["git"] or ""), match["rev"], home)
        return class_of(import_file(resolve_within(folder, match["path"] or "main.py")), match["cls"])
    file, _, name = text.partition(":")
    if file.endswith(".py"):
        return class_of(import_file(Path(file)), name or None)
    module, _, name = text.replace(":", ".").rpartition(".")
    if not module:
        raise InvalidInput("this names no photon", received=text, expected="file.py[:Class], module.Class or a git URL")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return class_of(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise NotFound("there is no such module", received=module) from None
        raise


def clone(url: str, revision: str | None, home: Home | None = None) -> Path:
    """A fresh clone in the cache. Only https, ssh and (for tests and mirrors) file URLs; nothing of git's configuration is asked of the URL.

    Private repositories over https: GITHUB_USER and GITHUB_TOKEN. Raises Unavailable if git cannot reach it."""
    for part in (url, revision or ""):
        if part.startswith("-") or any(ord(c) < 32 for c in part):
            raise Refused("this may not be given to git", received=part)
    if url.startswith("http://"):
        raise Refused("source over plain http could be anybody's", received=url, fix="Use https.")
    folder = (home or Home.current()).cache / "git" / hashlib.sha256(f"{url}@{revision}".encode()).hexdigest()[:16]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:ssh:file"}
    host = urlsplit(url).hostname
    if host == "github.com" and os.environ.get(
        "GITHUB_TOKEN"
    ):  # by the environment, not the command line, which others can read
        import base64

        pair = f"{os.environ.get('GITHUB_USER', 'git')}:{os.environ['GITHUB_TOKEN']}"
        environment |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.https://github.com/.extraheader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {base64.b64encode(pair.encode()).decode()}",
        }
    if (folder / ".git").is_dir():
        _git(["-C", str(folder), "fetch", "--quiet", "origin"], environment, url)
        _git(
            ["-C", str(folder), "checkout", "--quiet", "--detach", _there(folder, revision, environment)],
            environment,
            url,
        )
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _git(
        ["clone", "--quiet", "--no-recurse-submodules", "-c", "core.symlinks=false", "--", url, str(folder)],
        environment,
        url,
    )
    if revision:
        _git(
            ["-C", str(folder), "checkout", "--quiet", "--detach", _there(folder, revision, environment)],
            environment,
            url,
        )
    return folder


def _there(folder: Path, revision: str | None, environment: dict[str, str]) -> str:
    """A branch as it is on the other side, else the tag or commit."""
    name = f"origin/{revision or 'HEAD'}"
    found = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", name], env=environment, capture_output=True
    )
    return name if found.returncode == 0 else revision or "HEAD"


def _git(arguments: list[str], environment: dict[str, str], url: str) -> None:
    try:
        done = subprocess.run(
            ["git", *arguments], env=environment, capture_output=True, text=True, timeout=CLONE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable("git did not clone the source", received=type(error).__name__) from None
    if done.returncode:
        last = done.stderr.strip().splitlines()
        raise Unavailable(f"git cannot read {url.rpartition('@')[2]}: {last[-1] if last else done.returncode}")


def local_modules(path: Path) -> list[Path]:
    """Files beside `path` that it imports, and what those import: what has to travel with it."""
    found: list[Path] = []
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                other = path.resolve().parent / (name.partition(".")[0] + ".py")
                if other.is_file() and other not in found and other != path.resolve():
                    found.append(other)
                    waiting.append(other)
    return sorted(found)
