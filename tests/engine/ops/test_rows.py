"""Operations on rows: norm, rotation, gating, adapters, and the choice of tokens."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leptonai.base.errors import InvalidInput
from leptonai.engine.ops import ref
from leptonai.engine.ops.layout import LoraModule

some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@some
@given(rows=st.integers(1, 9), n=st.integers(1, 100), residual=st.booleans(), seed=st.integers(0, 99))
def test_rms_norm(cpu, rows, n, residual, seed):
    torch.manual_seed(seed)
    x, weight, kept = torch.randn(rows, n), torch.randn(n), torch.randn(rows, n) if residual else None
    ours, theirs = (None, None) if kept is None else (kept.clone(), kept.clone())
    torch.testing.assert_close(
        cpu.rms_norm(x, weight, 1e-5, ours), ref.rms_norm(x, weight, 1e-5, theirs), rtol=1e-5, atol=1e-5
    )
    assert kept is None or torch.equal(ours, theirs)


@pytest.mark.parametrize(("dim", "rotary"), [(128, 128), (64, 32), (8, 8), (24, 20)])
def test_rope(cpu, dim, rotary):
    torch.manual_seed(0)
    angles = torch.arange(50).unsqueeze(1) * 0.3 ** torch.arange(rotary // 2)
    x, positions = torch.randn(5, 3, dim), torch.tensor([0, 1, 7, 49, 3])
    cosine, sine = angles.cos().contiguous(), angles.sin().contiguous()
    torch.testing.assert_close(cpu.rope(x, positions, cosine, sine), ref.rope(x, positions, cosine, sine))


@pytest.mark.parametrize("n", [1, 16, 37, 3072])
def test_silu_mul(cpu, n):
    """Far out silu is the identity or nothing: exp must neither overflow nor leave the line."""
    x = torch.randn(3, 2 * n) * torch.tensor([[1.0], [30.0], [300.0]])
    torch.testing.assert_close(cpu.silu_mul(x), ref.silu_mul(x), rtol=1e-5, atol=1e-5)


def test_lora(cpu):
    torch.manual_seed(0)
    x, base, rows = torch.randn(6, 70), torch.randn(6, 90), torch.tensor([5, 0, 2])
    module = LoraModule(torch.randn(9, 70), torch.randn(41, 9), 0.5, column=20)
    ours, theirs = base.clone(), base.clone()
    cpu.lora(ours, x, rows, module)
    ref.lora(theirs, x, rows, module)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours[[1, 3, 4]], base[[1, 3, 4]])


def test_a_lora_that_does_not_fit_is_refused():
    with pytest.raises(InvalidInput, match="a \\(3, 8\\), b \\(5, 4\\)"):
        LoraModule(torch.zeros(3, 8), torch.zeros(5, 4))


@some
@given(data=st.data(), rows=st.integers(1, 4), vocab=st.integers(1, 300), ties=st.booleans(), seed=st.integers(0, 99))
def test_candidates(cpu, data, rows, vocab, ties, seed):
    """Order, ties and normaliser are those of a full stable sort."""
    torch.manual_seed(seed)
    logits = torch.randint(-3, 4, (rows, vocab)).float() if ties else torch.randn(rows, vocab)
    k = data.draw(st.integers(1, vocab))
    values, tokens, logsumexp = cpu.top_k(logits, k)
    expected_values, expected_tokens, expected_logsumexp = ref.top_k(logits, k)
    assert torch.equal(values, expected_values) and torch.equal(tokens, expected_tokens)
    torch.testing.assert_close(logsumexp, expected_logsumexp, rtol=1e-5, atol=1e-5)
    assert torch.equal(cpu.argmax(logits), ref.argmax(logits))


def test_candidates_of_a_whole_vocabulary(cpu):
    torch.manual_seed(0)
    logits = torch.randn(3, 151_936) * 4
    logits[1, 1000:] = -torch.inf  # a grammar's mask
    values, tokens, logsumexp = cpu.top_k(logits, 256)
    expected = ref.top_k(logits, 256)
    assert torch.equal(values, expected[0]) and torch.equal(tokens, expected[1])
    torch.testing.assert_close(logsumexp, expected[2], rtol=1e-5, atol=1e-4)


def test_more_candidates_than_tokens_are_refused(cpu):
    for ops in (cpu, ref):
        with pytest.raises(InvalidInput, match="1 to 5"):
            ops.top_k(torch.zeros(1, 5), 6)
