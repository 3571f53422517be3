"""Packed linear layers: exact in their integers, close in the rest, at any shape."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leptonai.base.errors import InvalidInput
from leptonai.engine.ops import ref
from leptonai.engine.ops.layout import quantize_int4, quantize_int8

KINDS = ("fp32", "bf16", "int8", "int4")
# One activation that rounds the other way is off by one step of 127; floats differ in the order of their sums.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-5, "int8": 2e-3, "int4": 2e-3}
ragged = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def close(a, b, tolerance):
    return (a - b).abs().max() <= tolerance * b.abs().max() + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@ragged
@given(
    rows=st.integers(0, 40), n=st.integers(1, 130), k=st.integers(1, 300), seed=st.integers(0, 99), biased=st.booleans()
)
def test_any_shape_gives_what_torch_gives(cpu, kind, rows, n, k, seed, biased):
    torch.manual_seed(seed)
    weight, x, bias = torch.randn(n, k), torch.randn(rows, k), torch.randn(n) if biased else None
    y = cpu.pack_linear(weight, kind, bias=bias).apply(x)
    assert y.shape == (rows, n)
    if rows:
        assert close(y, ref.pack_linear(weight, kind, bias=bias).apply(x), TOLERANCE[kind])


@pytest.mark.parametrize("rows", [1, 8, 13, 256])
def test_int8_products_are_exact(cpu, rows):
    """Activations that are whole numbers up to 127 quantise to themselves, so every sum is an integer and must be that integer."""
    torch.manual_seed(rows)
    q = torch.randint(-128, 128, (70, 1030), dtype=torch.int8)
    x = torch.randint(-127, 128, (rows, 1030)).float()
    x[:, 0] = 127
    y = cpu.pack_int8(q, torch.ones(70)).apply(x)
    assert torch.equal(y.double(), (x.double() @ q.double().T).float().double())


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("group", [32, 128])
def test_int4_products_are_exact(cpu, group, asymmetric):
    torch.manual_seed(group)
    q = torch.randint(0, 16, (70, 3 * group), dtype=torch.uint8)
    x = torch.randint(-127, 128, (9, 3 * group)).float()
    x[:, 0] = 127
    zero = torch.randint(0, 16, (70, 3)).float() if asymmetric else None
    y = cpu.pack_int4(q, torch.ones(70, 3), zero, group=group).apply(x)
    shift = zero.repeat_interleave(group, 1) if asymmetric else 8.0
    assert torch.equal(y.double(), x.double() @ (q.double() - shift).T)


def test_extremes_do_not_saturate(cpu):
    """All weights -128 and all activations 127: the largest sums there are (maddubs on unsigned weights would clip them)."""
    q = torch.full((32, 4096), -128, dtype=torch.int8)
    x = torch.full((2, 4096), 127.0)
    assert cpu.pack_int8(q, torch.ones(32)).apply(x).unique().tolist() == [-128 * 127 * 4096]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_batch(cpu, kind):
    """The same prompt gives the same logits whoever shares its step, to the bit: sums run in one order at any number of rows."""
    torch.manual_seed(0)
    layer, x = cpu.pack_linear(torch.randn(200, 333), kind), torch.randn(50, 333)
    together = layer.apply(x)
    assert all(torch.equal(together[i : i + 1], layer.apply(x[i : i + 1])) for i in (0, 17, 49))


@pytest.mark.parametrize("kind", KINDS)
def test_gate_and_up_come_out_in_order(cpu, kind):
    """Packed for a gated MLP, channels interleave inside; from outside they are gate, then up."""
    torch.manual_seed(0)
    weight, x, bias = torch.randn(2 * 75, 64), torch.randn(3, 64), torch.randn(150)
    gated = cpu.pack_linear(weight, kind, gated=True, bias=bias).apply(x)
    assert torch.equal(gated, cpu.pack_linear(weight, kind, bias=bias).apply(x))


@pytest.mark.parametrize("kind", KINDS)
def test_large_bf16_weights_are_packed_from_a_copy_that_lives(cpu, kind):
    """Of bf16 weights the packer reads an fp32 copy; one this large goes back to the system as soon as it is free."""
    weight, x = torch.randn(4096, 2048).bfloat16(), torch.randn(1, 2048)
    assert close(cpu.pack_linear(weight, kind).apply(x), ref.pack_linear(weight, kind).apply(x), TOLERANCE[kind])


def test_zeros_stay_zeros(cpu):
    assert not cpu.pack_linear(torch.zeros(33, 64), "int4").apply(torch.randn(2, 64)).any()
    assert not cpu.pack_linear(torch.randn(33, 64), "int8").apply(torch.zeros(2, 64)).any()


def test_nan_and_infinity_are_not_hidden(cpu):
    x = torch.randn(2, 64)
    x[1, 3] = torch.nan
    y = cpu.pack_linear(torch.randn(8, 64), "fp32").apply(x)
    assert y[1].isnan().all() and y[0].isfinite().all()


def test_quantised_weights_are_as_close_as_their_bits_allow():
    torch.manual_seed(0)
    weight = torch.randn(64, 500)
    q, scale = quantize_int8(weight)
    assert ((q * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()
    q, scale = quantize_int4(weight, 128)
    wide = scale.repeat_interleave(128, 1)[:, :500]
    # One step at the end of the range that has no 8th positive value, half a step elsewhere.
    assert (((q.float() - 8) * wide - weight).abs() <= wide.abs() * 1.01).all()
    assert set(q.unique().tolist()) == set(range(16))


@ragged
@given(n=st.integers(1, 5), k=st.integers(1, 300), group=st.sampled_from([8, 32, 128]), seed=st.integers(0, 99))
def test_weights_quantise_as_the_reference_does(cpu, n, k, group, seed):
    torch.manual_seed(seed)
    weight = torch.cat([torch.randn(n, k), torch.zeros(1, k), torch.full((1, k), 3.0)])
    for ours, theirs in (
        (cpu.quantize_int8(weight), quantize_int8(weight)),
        (cpu.quantize_int4(weight, group), quantize_int4(weight, group)),
    ):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("call", [lambda ops: ops.pack_linear(torch.ones(2, 2), "int3"), lambda ops: ops.pack_linear(torch.ones(2, 8), "int4", group=12), lambda ops: ops.pack_linear(torch.ones(2, 8), "fp32").apply(torch.ones(1, 7))])  # fmt: skip
def test_what_cannot_be_is_refused(cpu, call):
    for ops in (cpu, ref):
        with pytest.raises(InvalidInput, match="expected"):
            call(ops)
