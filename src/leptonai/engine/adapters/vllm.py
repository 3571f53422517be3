"""vLLM as a backend: `vllm serve`, from its own environment (its torch is rarely ours). Found on PATH or named by LEPTON_VLLM."""

from __future__ import annotations

import os
import shutil

from ...base.errors import Unavailable
from ..backend import GenRequest
from .remote import RemoteBackend


class VLLM(RemoteBackend):
    name = "vllm"

    def command(self) -> list[str]:
        binary = os.environ.get("LEPTON_VLLM") or shutil.which("vllm")
        if not binary:
            raise Unavailable(
                "vllm is not installed",
                fix="Install it in an environment of its own and set LEPTON_VLLM to its `vllm` command.",
            )
        options = self.options
        command = [
            binary,
            "serve",
            str(self.path),
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--served-model-name",
            self.info.name,
        ]
        for flag, value in (
            ("--max-model-len", options.max_model_len),
            ("--max-num-seqs", options.max_num_seqs),
            ("--quantization", options.quantization),
        ):
            if value:
                command += [flag, str(value)]
        return command

    def environment(self) -> dict[str, str]:
        return {**os.environ, "VLLM_API_KEY": self.key}

    def body(self, request: GenRequest) -> dict:
        return {**super().body(request), "return_token_ids": True}
