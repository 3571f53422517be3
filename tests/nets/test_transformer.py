"""The Transformer encoder: padding is invisible, position is not, and gradients reach every weight."""

import pytest
import torch

from leptonai.base.errors import InvalidInput
from leptonai.nets.registry import build, load_state, state_of

SIZES = {"vocabulary": 12, "length": 16, "classes": 3, "width": 32, "layers": 2, "heads": 4}


def build_eval(**config):
    torch.manual_seed(0)
    return build("transformer", SIZES | config).eval()


def test_padding_changes_nothing():
    network = build_eval()
    alone = torch.tensor([[3, 4, 5]])
    padded = torch.tensor([[3, 4, 5, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    assert torch.allclose(network(tokens=alone)[0], network(tokens=padded)[0], atol=1e-6)


def test_order_matters():
    network = build_eval()
    there, back = network(tokens=torch.tensor([[3, 4, 5]])), network(tokens=torch.tensor([[5, 4, 3]]))
    assert not torch.allclose(there, back, atol=1e-6)


def test_an_empty_text_has_finite_logits():
    logits = build_eval()(tokens=torch.zeros((2, 16), dtype=torch.int32))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


def test_every_weight_learns():
    network = build_eval()
    tokens = torch.randint(1, 12, (8, 16), generator=torch.Generator().manual_seed(0))
    network(tokens=tokens).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_learns_which_of_two_words_comes_first():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 12, (256, 8), generator=generator)
    labels = torch.randint(0, 2, (256,), generator=generator)
    tokens[:, 2] = 1 + labels
    tokens[:, 5] = 2 - labels
    torch.manual_seed(0)
    network = build("transformer", SIZES | {"classes": 2, "dropout": 0.0})
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(network(tokens=tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (network.eval()(tokens=tokens).argmax(1) == labels).float().mean() > 0.97


def test_state_rebuilds_the_same_network():
    first = build_eval()
    second = build("transformer", first.config).eval()
    tokens = torch.tensor([[1, 2, 3, 0]])
    load_state(second, state_of(first))
    assert torch.equal(first(tokens=tokens), second(tokens=tokens))


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(InvalidInput, match="multiple of heads"):
        build("transformer", SIZES | {"heads": 5})
