"""Model strings: what `-m` may say, and what serves it. One line per prefix.

`py:` is the user's class; `hf:` and `vllm:` are photons of ours around a library; the rest are models that other servers of Lepton serve.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from ... import __version__
from ...base.errors import InvalidInput, Missing, Unavailable, did_you_mean
from ...base.home import Home
from .photon import Photon, check_photon_name
from .source import python_class


class Launchable(Protocol):
    _photon_name: str
    metadata: dict[str, Any]

    def launch(self, host: str = "127.0.0.1", port: int | None = None, **options: Any) -> None: ...


def create(name: str | None, model: str, home: Home | None = None) -> Any:
    """The photon, or server, of a model string. Raises InvalidInput for a prefix that there is not."""
    if name is not None:
        check_photon_name(name)
    prefix, colon, rest = model.partition(":")
    if not colon or prefix.endswith(".py") or prefix in ("https", "http", "ssh", "file") or prefix.startswith("git@"):
        prefix, rest = "py", model
    if prefix not in PREFIXES:
        raise InvalidInput(
            "this names no model", received=model, expected="PREFIX:MODEL", fix=did_you_mean(prefix, PREFIXES)
        )
    return PREFIXES[prefix](name, model, rest, home)


def _python(name: str | None, model: str, rest: str, home: Home | None) -> Photon:
    return python_class(rest, home)(name, model)


def _hugging_face(name: str | None, model: str, rest: str, home: Home | None) -> Photon:
    from .hf import photon_of

    return photon_of(name, model, rest)


def _vllm(name: str | None, model: str, rest: str, home: Home | None) -> Photon:
    if importlib.util.find_spec("vllm") is None:
        raise Unavailable(
            "vllm is not installed",
            received=model,
            fix="Install it on a machine with a GPU: pip install vllm; or use llm:MODEL.",
        )
    from .vllm import VLLMPhoton

    return VLLMPhoton(name, model)


class Served:
    """A model that the model server (photon/server.py) serves: its package is the string alone."""

    photon_type = "model"

    def __init__(self, name: str | None, model: str, ref: str, home: Home | None):
        plain = ref.partition("@")[0].rpartition("/")[2].partition(".")[0].lower().replace("_", "-")
        self.name = self._photon_name = name or check_photon_name(plain)
        self.model, self.ref, self.home = model, ref, home

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "model": self.model,
            "type": self.photon_type,
            "lepton_version": __version__,
            "requirement_dependency": [],
        }

    def launch(self, host: str = "127.0.0.1", port: int | None = None, **options: Any) -> None:
        import os

        try:
            from ..server import serve
        except ModuleNotFoundError as error:
            raise Missing(error.name or "torch", "serve") from error
        token = os.environ.get("LEPTON_LOCAL_DEPLOYMENT_TOKEN") or os.environ.get("LEPTON_TOKEN") or None
        ready = options.get("ready")
        serve(
            self.ref, name=self.name, host=host, port=8080 if port is None else port, token=token, home=self.home,
            ready=(lambda state: ready(state.url)) if ready else (lambda state: print(f"{state.model} is served on {state.url}", flush=True)),
        )  # fmt: skip


def _zoo(name: str | None, model: str, rest: str, home: Home | None) -> Served:
    return Served(name, model, rest, home)


def _file(name: str | None, model: str, rest: str, home: Home | None) -> Served:
    return Served(name, model, model, home)


class LanguageModel(Served):
    """A language model that the inference engine serves, to OpenAI's clients; the photon's token is its API key."""

    def launch(self, host: str = "127.0.0.1", port: int | None = None, **options: Any) -> None:
        import os

        try:
            from ...engine.serve.server import ServeOptions, serve
            from ...engine.wire import EngineOptions
        except ModuleNotFoundError as error:
            raise Missing(error.name or "torch", "llm") from error
        token = os.environ.get("LEPTON_LOCAL_DEPLOYMENT_TOKEN") or os.environ.get("LEPTON_API_KEY")
        engine = EngineOptions(model=self.ref, name=self.name)
        ready = options.get("ready") or (lambda url: print(f"{self.model} is served on {url}", flush=True))
        chosen = ServeOptions(
            engine, host=host, port=8080 if port is None else port, api_keys=(token,) if token else ()
        )
        serve(chosen, lambda url, served: ready(url))


def _llm(name: str | None, model: str, rest: str, home: Home | None) -> LanguageModel:
    return LanguageModel(name, model, rest, home)


PREFIXES: dict[str, Callable[[str | None, str, str, Home | None], Any]] = {
    "py": _python,
    "hf": _hugging_face,
    "vllm": _vllm,
    "zoo": _zoo,
    "onnx": _file,
    "keras": _file,
    "skops": _file,
    "sklearn": _file,
    "lightgbm": _file,
    "export": _file,
    "llm": _llm,
}
