"""SGLang as a backend: `python -m sglang.launch_server`, from its own environment. LEPTON_SGLANG_PYTHON names its Python."""

from __future__ import annotations

import importlib.util
import os
import sys

from ...base.errors import Unavailable
from .remote import RemoteBackend


class SGLang(RemoteBackend):
    name = "sglang"

    def command(self) -> list[str]:
        python = os.environ.get("LEPTON_SGLANG_PYTHON")
        if not python and importlib.util.find_spec("sglang") is None:
            raise Unavailable(
                "sglang is not installed",
                fix="Install it in an environment of its own and set LEPTON_SGLANG_PYTHON to its Python.",
            )
        command = [
            python or sys.executable,
            "-m",
            "sglang.launch_server",
            "--model-path",
            str(self.path),
            "--host",
            "127.0.0.1",
        ]
        command += ["--port", str(self.port), "--api-key", self.key, "--served-model-name", self.info.name]
        if self.options.max_model_len:
            command += ["--context-length", str(self.options.max_model_len)]
        return command
