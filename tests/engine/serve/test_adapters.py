"""Other engines behind `--backend`: what is not installed says what to install; what is there answers with the tokens of our own engine.

The real ones want LEPTON_BENCH_CACHE, where `python -m bench.llm --prepare` builds them.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from leptonai.base.errors import InvalidInput, Unavailable
from leptonai.engine.adapters import open_adapter
from leptonai.engine.backend import GenRequest
from leptonai.engine.params import SamplingParams
from leptonai.engine.process import EngineProcess
from leptonai.engine.wire import EngineOptions

CACHE = Path(os.environ.get("LEPTON_BENCH_CACHE", "/nonexistent"))
REQUEST = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)


@pytest.mark.parametrize(
    ("name", "variable"),
    [("llama.cpp", "LEPTON_LLAMA_SERVER"), ("vllm", "LEPTON_VLLM"), ("sglang", "LEPTON_SGLANG_PYTHON")],
)
def test_what_is_not_installed_is_said(name, variable, model, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="not installed"):
        asyncio.run(open_adapter(name, model, EngineOptions(model=str(model))).start())


def test_openvino_says_what_it_needs(model):
    with pytest.raises((Unavailable, InvalidInput), match=r"not installed|no OpenVINO model"):
        asyncio.run(open_adapter("openvino", model, EngineOptions(model=str(model))).start())


async def first_tokens(backend) -> list[int]:
    await backend.start()
    try:
        tokens = []
        async for delta in backend.submit(GenRequest(id="a", prompt_token_ids=[1000, 2000, 3000], params=REQUEST)):
            tokens += delta.token_ids
        with pytest.raises(InvalidInput):
            async for _ in backend.submit(GenRequest(id="b", prompt_token_ids=[1], params=REQUEST.replace(logprobs=1))):
                pass
        return tokens
    finally:
        await backend.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder"), [("llama.cpp", "qwen3-0.6b-int8.gguf"), ("openvino", "qwen3-0.6b-ov-int8")]
)
def test_real_engines_answer_with_the_same_tokens(name, folder, monkeypatch):
    path = CACHE / folder
    if not path.exists():
        pytest.skip("LEPTON_BENCH_CACHE has no peers: python -m bench.llm --prepare")
    monkeypatch.setenv("LEPTON_LLAMA_SERVER", str(CACHE / "llama.cpp" / "build" / "bin" / "llama-server"))
    packages = next((CACHE / "openvino-env").glob("lib/python*/site-packages"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    options = EngineOptions(model=str(path), max_model_len=256, max_num_seqs=1, kv_cache_bytes=1 << 30)
    theirs = asyncio.run(first_tokens(open_adapter(name, path, options)))

    async def ours() -> list[int]:
        backend = EngineProcess(
            EngineOptions(
                model=str(CACHE / "qwen3-0.6b"), quantization="int8", max_model_len=256, kv_cache_bytes=1 << 28
            )
        )
        await backend.start()
        try:
            request = GenRequest(id="a", prompt_token_ids=[1000, 2000, 3000], params=REQUEST)
            return [token async for delta in backend.submit(request) for token in delta.token_ids]
        finally:
            await backend.stop()

    assert theirs == asyncio.run(ours())
