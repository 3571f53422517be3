"""llama.cpp's `llama-server` as a backend: for .gguf files. Found on PATH or named by LEPTON_LLAMA_SERVER."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ...base.errors import InvalidInput, Unavailable
from ..backend import GenRequest
from .remote import RemoteBackend


class LlamaCpp(RemoteBackend):
    name = "llama.cpp"
    route = "/completion"

    def command(self) -> list[str]:
        binary = os.environ.get("LEPTON_LLAMA_SERVER") or shutil.which("llama-server")
        if not binary or not Path(binary).is_file():
            raise Unavailable(
                "llama-server is not installed",
                fix="Build llama.cpp (cmake --build build -t llama-server) and put it on PATH, or set LEPTON_LLAMA_SERVER.",
            )
        if self.path.suffix != ".gguf":
            raise InvalidInput("llama.cpp reads .gguf files", received=str(self.path.name), expected="a .gguf file")
        options = self.options
        slots = options.max_num_seqs or 8
        threads = len(os.sched_getaffinity(0))
        context = self.info.max_model_len * slots
        return [
            binary, "-m", str(self.path), "--host", "127.0.0.1", "--port", str(self.port), "--api-key", self.key, "-c", str(context),
            "-np", str(slots), "-t", str(threads), "--no-webui", "--log-disable",
        ]  # fmt: skip

    def body(self, request: GenRequest) -> dict:
        """Of llama-server's own route, which gives token ids where OpenAI's gives text."""
        body = super().body(request)
        body |= {
            "n_predict": body.pop("max_tokens", -1),
            "return_tokens": True,
            "cache_prompt": False,
            "repeat_penalty": request.params.repetition_penalty,
        }
        if "logit_bias" in body:
            body["logit_bias"] = [[int(token), bias] for token, bias in body["logit_bias"].items()]
        return body

    def read(self, event: dict) -> tuple[list[int], str | None]:
        ended = ("length" if event.get("stop_type") == "limit" else "stop") if event.get("stop") else None
        return event.get("tokens") or [], ended
