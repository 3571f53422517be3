"""LSTM and GRU: a text's output is its own, whatever it is batched or padded with, and they learn what only order tells."""

import pytest
import torch

from leptonai.base.errors import InvalidInput
from leptonai.nets.registry import build, load_state, state_of

SIZES = {"vocabulary": 12, "classes": 2, "embedding": 16, "hidden": 16}
KINDS = pytest.mark.parametrize("kind", ["lstm", "gru"])


def build_eval(kind, **config):
    torch.manual_seed(0)
    return build(kind, SIZES | config).eval()


@KINDS
@pytest.mark.parametrize("options", [{}, {"bidirectional": False}, {"layers": 2}])
def test_padding_changes_nothing(kind, options):
    network = build_eval(kind, **options)
    alone = torch.tensor([[3, 4, 5]])
    padded = torch.tensor([[3, 4, 5, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    assert torch.allclose(network(tokens=alone)[0], network(tokens=padded)[0], atol=1e-6)


@KINDS
def test_an_empty_text_has_finite_logits(kind):
    logits = build_eval(kind)(tokens=torch.zeros((3, 5), dtype=torch.int32))
    assert logits.shape == (3, 2)
    assert torch.isfinite(logits).all()


@KINDS
def test_learns_the_order_of_two_words(kind):
    """Which of words 1 and 2 comes first: no bag of words can tell."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 12, (256, 8), generator=generator)
    labels = torch.randint(0, 2, (256,), generator=generator)
    tokens[:, 2] = 1 + labels
    tokens[:, 5] = 2 - labels
    torch.manual_seed(0)
    network = build(kind, SIZES | {"dropout": 0.0})
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(network(tokens=tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network.eval()(tokens=tokens).argmax(1) == labels).float().mean() > 0.97


@KINDS
def test_state_rebuilds_the_same_network(kind):
    first = build_eval(kind)
    second = build(kind, first.config).eval()
    tokens = torch.tensor([[1, 2, 3, 0]])
    load_state(second, state_of(first))
    assert torch.equal(first(tokens=tokens), second(tokens=tokens))


@KINDS
def test_sizes_that_cannot_be_are_refused(kind):
    with pytest.raises(InvalidInput, match="at least 1"):
        build(kind, SIZES | {"hidden": 0})
