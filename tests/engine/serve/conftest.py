"""A small language model with random weights and a byte tokenizer, and `lep serve llm:` serving it as a real process."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools>{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(folder: Path, *, seed: int = 0) -> Path:
    """A Llama of 2 layers, context 2,048, one token a byte. It says nothing sensible; it does so reproducibly."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 272, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "eos_token_id": 258, "bos_token_id": 256,
        "tie_word_embeddings": False, "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (272, 64), "lm_head": (272, 64)}
    for i in range(2):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{name}_proj": (out, 64) for name, out in (("q", 128), ("k", 64), ("v", 64))}
        shapes |= {f"{layer}.self_attn.o_proj": (64, 128), f"{layer}.mlp.down_proj": (64, 128)}
        shapes |= {f"{layer}.mlp.{name}_proj": (128, 64) for name in ("gate", "up")}
    random = torch.Generator().manual_seed(seed)
    weights = {f"{name}.weight": torch.randn(*shape, generator=random) * 0.1 for name, shape in shapes.items()}
    norms = ["model.norm"] + [
        f"model.layers.{i}.{name}_layernorm" for i in range(2) for name in ("input", "post_attention")
    ]
    save_file(weights | {f"{name}.weight": torch.ones(64) for name in norms}, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@dataclass
class Server:
    url: str
    process: subprocess.Popen
    http: httpx.Client

    def metric(self, name: str) -> float:
        return float(re.search(rf"^lepton_{name} (\S+)$", self.http.get("/metrics").text, re.MULTILINE)[1])

    def engine_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(
            int(pid) for pid in children if b"leptonai.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )


def wait_until(condition, what: str, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def serving(model: Path, *options: str, key: str | None = None):
    """`lep serve llm:MODEL OPTIONS` on a free port, until the end of the block."""
    command = [sys.executable, "-m", "leptonai.cli.main", "serve", f"llm:{model}", "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+(?=/v1)", line)
        assert found, line + process.stdout.read()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=found[0], headers=headers, timeout=60) as client:
            yield Server(found[0], process, client)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.stdout.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("llm") / "byte-llama")


@pytest.fixture(scope="session")
def server(model):
    with serving(model, "--name", "byte", "--max-num-seqs", "8", "--kv-cache-gb", "0.1") as running:
        yield running


@pytest.fixture
def client(server):
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="anything", max_retries=0) as client:
        yield client
