"""`vllm:MODEL`: vLLM's OpenAI server as a child process, reached below `/api`. `VLLM_ARGS_*` variables are its arguments."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any, ClassVar

from ...base.errors import Unavailable
from ...base.sockets import listen
from .photon import Photon

START_S = 900
_PREFIX = "VLLM_ARGS_"


def arguments_of(environment: dict[str, str]) -> list[str]:
    """`VLLM_ARGS_MAX_MODEL_LEN=4096` → `--max-model-len 4096`; an empty value is a flag."""
    found = []
    for name, value in sorted(environment.items()):
        if name.startswith(_PREFIX):
            found += [f"--{name[len(_PREFIX) :].lower().replace('_', '-')}", *([value] if value else [])]
    return found


class VLLMPhoton(Photon):
    photon_type = "vllm"
    requirement_dependency: ClassVar[list[str] | None] = ["vllm"]

    def init(self) -> None:
        with listen("127.0.0.1", 0) as free:
            self.port = free.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            self._photon_model.removeprefix("vllm:"),
        ]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port), *arguments_of(dict(os.environ))]
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise Unavailable("vLLM did not start; its log is above", received=self._photon_model)
            time.sleep(0.5)

    def _answers(self) -> bool:
        import httpx

        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    @Photon.handler("api", mount=True)
    def api(self) -> Any:
        from .proxy import asgi_proxy

        return asgi_proxy(f"http://127.0.0.1:{self.port}")
