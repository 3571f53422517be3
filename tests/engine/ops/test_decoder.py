"""The whole decoder in one native call: the reference's hidden states, whatever shares the step and however the prompt is cut."""

from pathlib import Path

import pytest
import torch

from leptonai.base.errors import InvalidInput
from leptonai.engine.ops import ref
from leptonai.engine.ops.layout import Batch, DecoderWeights, LayerWeights, LoraModule

STORIES = Path(__file__).parents[4] / "shared" / "data" / "models" / "stories260k" / "hf"
HEADS, KV_HEADS, DIM, HIDDEN, FFN, VOCAB, LAYERS = 6, 2, 24, 96, 200, 300, 3


def build(ops, kind="fp32", kv_kind="fp32", *, qk_norm=True, window=0):
    """A decoder with random weights, always the same."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape, std=0.1):
        return torch.randn(*shape, generator=random) * std

    width = (HEADS + 2 * KV_HEADS) * DIM
    layers = [
        LayerWeights(
            1 + normal(HIDDEN),
            1 + normal(HIDDEN),
            ops.pack_linear(normal(width, HIDDEN), kind, bias=normal(width)),
            ops.pack_linear(normal(HIDDEN, HEADS * DIM), kind),
            ops.pack_linear(normal(2 * FFN, HIDDEN), kind, gated=True),
            ops.pack_linear(normal(HIDDEN, FFN), kind),
            *((1 + normal(DIM), 1 + normal(DIM)) if qk_norm else (None, None)),
            window,
        )
        for _ in range(LAYERS)
    ]
    angles = torch.arange(512).unsqueeze(1) * 1e4 ** (-torch.arange(0, DIM, 2) / DIM)
    embedding, norm = normal(VOCAB, HIDDEN, std=1.0), 1 + normal(HIDDEN)
    weights = DecoderWeights(HEADS, KV_HEADS, DIM, 1e-6, embedding, angles.cos(), angles.sin(), norm, layers)
    return ops.Decoder(weights, ops.KVCache(LAYERS, 20, KV_HEADS, DIM, kv_kind))


def adapter(seed, rank):
    """On q and k of the merged projection, on o, on up alone, and on down."""
    random = torch.Generator().manual_seed(seed)

    def module(n, k, column=0):
        return LoraModule(
            torch.randn(rank, k, generator=random) * 0.1, torch.randn(n, rank, generator=random) * 0.1, 2.0, column
        )

    query = HEADS * DIM
    layer = {
        "qkv": [module(query, HIDDEN), module(KV_HEADS * DIM, HIDDEN, query)],
        "o": [module(HIDDEN, query)],
        "gate_up": [module(FFN, HIDDEN, FFN)],
        "down": [module(HIDDEN, FFN)],
    }
    return [layer] * LAYERS


def prompt(length, seed=0):
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


# Rounding of activations to int8 can turn on the last bit of a float; the rest of the difference is what bf16 and int8 caches lose.
@pytest.mark.parametrize(
    ("kind", "kv_kind", "tolerance"),
    [
        ("fp32", "fp32", 1e-5),
        ("fp32", "int8", 2e-3),
        ("bf16", "bf16", 1e-2),
        ("int8", "fp32", 1e-2),
        ("int8", "int8", 2e-2),
        ("int4", "int8", 2e-2),
    ],
)
@pytest.mark.parametrize("qk_norm", [True, False])
def test_hidden_states_are_the_references(cpu, kind, kv_kind, tolerance, qk_norm):
    """A long prompt, a short one, then a step that mixes decode, a chunk and an adapter."""
    tables = [[3, 1, 7], [2]]
    steps = [
        Batch.of([prompt(70), prompt(5, 1)], [70, 5], tables),
        Batch.of(
            [[5], [7, 8, 9]],
            [71, 8],
            tables,
            [(adapter(1, 4), torch.tensor([0])), (adapter(2, 9), torch.tensor([2, 3]))],
        ),
    ]
    ours, theirs = (
        build(cpu, kind, kv_kind, qk_norm=qk_norm, window=40),
        build(ref, kind, kv_kind, qk_norm=qk_norm, window=40),
    )
    for batch in steps:
        y, expected = ours.forward(batch), theirs.forward(batch)
        assert (y - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize(("kind", "kv_kind"), [("fp32", "fp32"), ("bf16", "bf16"), ("int4", "int8")])
def test_chunks_and_company_change_nothing(cpu, kind, kv_kind):
    """The last token's state is the same to the bit with the prompt in one step or in pieces, alone or among others."""
    tokens = prompt(90)
    whole = build(cpu, kind, kv_kind).forward(Batch.of([tokens], [90], [[0, 1, 2]]))[-1]
    pieces = build(cpu, kind, kv_kind)
    for begin, end in ((0, 1), (1, 37), (37, 89), (89, 90)):
        last = pieces.forward(
            Batch.of([tokens[begin:end], prompt(begin + 1, 9)], [end, begin + 1], [[4, 5, 6], [9, 10, 11]])
        )[end - begin - 1]
    assert torch.equal(last, whole)


def test_an_empty_step_is_nothing(cpu):
    assert build(cpu).forward(Batch.of([], [], [])).shape == (0, HIDDEN)


def test_an_adapter_that_was_forgotten_is_read_again(cpu):
    decoder, lora = build(cpu), adapter(1, 4)
    batch = Batch.of([[1, 2]], [2], [[0]], [(lora, torch.tensor([0, 1]))])
    before = decoder.forward(batch)
    decoder.forget(lora)
    assert torch.equal(decoder.forward(batch), before)
    assert not torch.equal(decoder.forward(Batch.of([[1, 2]], [2], [[0]])), before)


def test_a_layer_of_another_shape_is_refused(cpu):
    good = build(cpu)
    layers = [
        LayerWeights(
            *(
                getattr(good.weights.layers[0], name)
                for name in ("attention_norm", "mlp_norm", "qkv", "o", "down", "down")
            )
        )
    ]
    with pytest.raises(InvalidInput, match="gate_up of layer 0 has another shape"):
        cpu.Decoder(
            DecoderWeights(
                HEADS,
                KV_HEADS,
                DIM,
                1e-6,
                *(getattr(good.weights, name) for name in ("embedding", "cosine", "sine", "final_norm")),
                layers,
            ),
            good.kv,
        )


@pytest.mark.parametrize(("quantization", "most"), [("int8", 0.002), ("int4", 0.1)])
def test_quantised_logits_of_a_trained_model_stay_close(cpu, quantization, most):
    """Mean KL divergence, in nats, from the fp32 model's next-token distribution, over its own 200 greedy tokens."""
    if not STORIES.exists():
        pytest.skip("../shared/data/models is not here")
    from leptonai.engine.models import load_model

    exact = load_model(STORIES, dtype="fp32", ops="cpu")
    rough = load_model(STORIES, dtype="fp32", quantization=quantization, kv_cache_dtype="int8", ops="cpu")
    tokens = [1]
    for length in range(1, 200):
        states = exact.decoder.forward(Batch.of([tokens[-1:]], [length], [list(range(7))]))
        tokens.append(int(exact.logits(states).argmax()))
    whole = Batch.of([tokens], [len(tokens)], [list(range(7))])
    p, q = (runner.logits(runner.decoder.forward(whole)).log_softmax(-1) for runner in (exact, rough))
    assert (p.exp() * (p - q)).sum(-1).mean().item() < most
