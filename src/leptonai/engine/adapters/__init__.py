"""Other engines behind the same `LLMBackend`, chosen by --backend. Each is one small file and says what to install."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..wire import EngineOptions


def open_adapter(name: str, path: Path, options: EngineOptions) -> Any:
    """An adapter, not yet started. Raises Unavailable if its engine is not installed."""
    match name:
        case "llama.cpp":
            from .llamacpp import LlamaCpp

            return LlamaCpp(path, options)
        case "openvino":
            from .openvino import OpenVINO

            return OpenVINO(path, options)
        case "vllm":
            from .vllm import VLLM

            return VLLM(path, options)
        case "sglang":
            from .sglang import SGLang

            return SGLang(path, options)
    raise ValueError(name)
