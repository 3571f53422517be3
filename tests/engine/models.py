"""Tiny language models that the tests train themselves (a second each), saved in Hugging Face's layout, with a byte tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch

VOCAB = 260
BOS, EOS = 256, 257
TEXT = """the red fox sees a blue bird. the blue bird sees the red fox. a fox runs home, a bird flies home.
one two three four five six seven eight nine ten. ten nine eight seven six five four three two one.
where is the fox? the fox is at home. where is the bird? the bird is at home, and the fox is glad. """
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": None,
}  # fmt: skip


def model_config(family: str):
    """What is special of each family is on: scaled positions, biases, tied and untied heads, query norms, a sliding window."""
    import transformers as hf

    llama3 = {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    if family == "llama":
        return hf.LlamaConfig(**SHAPE, tie_word_embeddings=True, rope_parameters={"rope_theta": 10000.0, **llama3})
    if family == "qwen2":
        return hf.Qwen2Config(**SHAPE, tie_word_embeddings=False)
    if family == "qwen3":
        return hf.Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True)
    if family == "mistral":
        return hf.MistralConfig(**SHAPE, sliding_window=24, tie_word_embeddings=False)
    return hf.GPTNeoXConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}, tie_word_embeddings=False)


def train(family: str, folder: Path, *, steps: int = 60, seed: int = 0) -> Path:
    """Train and save a model of the family. It learns enough that its greedy choices are clear ones."""
    import transformers as hf

    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(model_config(family), dtype=torch.float32, attn_implementation="eager")
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):  # their starting values (1 and 0) would hide a forgotten one
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    data = torch.tensor(list(TEXT.encode()) * 3)
    optimizer = torch.optim.AdamW(model.parameters(), 6e-3)
    for _ in range(steps):
        starts = torch.randint(0, len(data) - 64, (12,)).tolist()
        batch = torch.stack([data[start : start + 64] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """One token a byte, <s> and </s>, and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    bytes_ = byte_alphabet()
    tokenizer = Tokenizer(
        BPE(vocab={**{char: byte for byte, char in bytes_.items()}, "<s>": BOS, "</s>": EOS}, merges=[])
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE})
    )


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{byte: chr(byte) for byte in plain}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def hf_greedy(folder: Path, prompt: list[int], count: int) -> list[int]:
    """What transformers generates, greedily and without an end."""
    import transformers as hf

    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return found[0, len(prompt) :].tolist()


def generate(engine, prompts, params, **request) -> list[list[int]]:
    """Tokens of each prompt, all given to the engine at once."""
    from leptonai.engine.backend import GenRequest

    each = params if isinstance(params, list) else [params] * len(prompts)
    adapters = request.pop("adapters", [None] * len(prompts))
    for i, (prompt, wanted, adapter) in enumerate(zip(prompts, each, adapters, strict=True)):
        engine.add_request(
            GenRequest(id=str(i), prompt_token_ids=list(prompt), params=wanted, adapter=adapter, **request)
        )
    found: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}
    while engine.has_unfinished():
        for id, delta in engine.step():
            assert delta.error is None, delta.error
            found[id] += delta.token_ids
    engine.check_integrity()
    return [found[str(i)] for i in range(len(prompts))]
